"""Shares: how sure one may be of a share that was counted on some samples."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

#: Of intervals that are printed: both sides together.
CONFIDENCE = 0.95


def interval(share: float, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval [low, high] for a share p seen on ``count`` samples.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), with z the normal quantile of
    (1 + confidence)/2; unlike p ± z√(p(1-p)/n) it stays sensible where all samples agree.

    >>> [round(end, 4) for end in interval(0.9975, 800)]
    [0.9909, 0.9993]
    >>> interval(1.0, 0)
    (0.0, 1.0)

    """
    if count < 1:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle, scale = share + z * z / (2 * count), 1 + z * z / count
    away = z * sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (middle - away) / scale), min(1.0, (middle + away) / scale)


def required(wanted: float, count: int, confidence: float) -> float:
    """The least share of ``count`` samples that vouches for the share ``wanted`` of all others.

    The lower end of the one-sided interval is then ``wanted`` or more. Of few samples all have to
    agree, which is the most that they can say; at a confidence of one half there is no margin.

    >>> round(required(0.995, 800, 0.9), 4), required(0.995, 100, 0.9), required(0.9, 50, 0.5)
    (0.9982, 1.0, 0.9)

    """
    if confidence <= 0.5:
        return wanted
    low, high = wanted, 1.0
    if interval(1.0, count, 2 * confidence - 1)[0] < wanted:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = interval(middle, count, 2 * confidence - 1)[0] >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high
