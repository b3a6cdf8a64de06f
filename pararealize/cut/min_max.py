"""Min-max: the exact partition of positions whose heaviest piece is lightest."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite

import numpy as np

from pararealize.errors import CutError

Weight = Callable[[int, int], float]
#: Of the interval in which an upper bound is searched.
HALVINGS = 8
#: By what sums may differ that were taken in another order.
ROUNDING = 1e-9


def min_max(size: int, n: int, weight: Weight, least: Weight | None = None) -> tuple[int, ...]:
    """Bounds 0 = b₀ < b₁ < … < b_n = ``size`` that minimise the largest ``weight(b_{j-1}, b_j)``.

    Among the partitions with the smallest largest weight, the one with the least sum of squares.
    Exact: dynamic programming over all pieces that can be part of it, n times as many steps.
    ``least``, where it is known, bounds the weight from below and grows with the piece, so that
    pieces too heavy are not even weighed. Where every partition has a piece of infinite weight, it
    is the one of equal lengths.

    Raises:
        CutError: fewer than ``n`` positions.

    """
    if not 1 <= n <= size:
        raise CutError(f"{size} layers cannot be cut into {n} pieces.")
    least = least or (lambda _a, _b: 0.0)
    equal = tuple(round(j * size / n) for j in range(n + 1))
    bound = _upper_bound(size, equal, weight, least(0, size) / n)
    pieces = _pieces(size, n, weight, least, bound)
    best = _Table(size, n, pieces, np.maximum)
    if not isfinite(best.value):
        return equal
    allowed = pieces.only(pieces.weight <= best.value * (1 + ROUNDING))
    return _Table(size, n, replace(allowed, weight=allowed.weight**2), np.add).bounds()


def _upper_bound(size: int, equal: tuple[int, ...], weight: Weight, low: float) -> float:
    """A largest weight that a partition has: the one of equal lengths, or a greedy one.

    Greedy ones are searched down to ``low``, below which there are none.
    """
    n = len(equal) - 1
    best = high = max(weight(a, b) for a, b in pairwise(equal))
    for _ in range(HALVINGS if isfinite(best) else 0):
        middle = (low + high) / 2
        count = greedy_pieces(size, n, weight, middle)
        best = middle if count == n else best
        low, high = (low, middle) if count <= n else (middle, high)
    return best


def greedy_pieces(size: int, n: int, weight: Weight, limit: float) -> int:
    """How many pieces within the limit the positions make, each as long as it grows.

    They are not counted beyond ``n`` + 1, which stands for any larger number, or for none.
    """
    first = 0
    for count in range(n + 1):
        if first == size:
            return count
        last = first
        while last < size and weight(first, last + 1) <= limit:
            last += 1
        if last == first:
            break
        first = last
    return n + 1


@dataclass(frozen=True)
class _Pieces:
    """Pieces ``first[i]`` … ``last[i] - 1`` and their weights, by where they end and begin."""

    first: np.ndarray
    last: np.ndarray
    weight: np.ndarray

    def only(self, wanted: np.ndarray) -> _Pieces:
        """Those that are wanted."""
        return _Pieces(self.first[wanted], self.last[wanted], self.weight[wanted])


def _pieces(size: int, n: int, weight: Weight, least: Weight, bound: float) -> _Pieces:
    """The pieces that can be part of a best partition.

    k pieces before a position hold k times the bound at most, and so do those after it: a piece
    that begins behind k others ends at a position that k + 1 can lie before.
    """
    limit = min(bound, least(0, size)) * (1 + ROUNDING)  # the bound may be infinite
    holds = np.arange(n + 1) * limit
    low = [int(np.searchsorted(holds, least(0, i))) for i in range(size + 1)]
    high = [n - int(np.searchsorted(holds, least(i, size))) for i in range(size + 1)]
    positions = [i for i in range(size + 1) if low[i] <= high[i]]
    found: list[tuple[int, int, float]] = []
    for a in positions:
        for b in positions[bisect_right(positions, a) :]:
            if least(a, b) > bound:
                break
            if low[b] <= high[a] + 1 and low[a] + 1 <= high[b]:
                heavy = weight(a, b)
                if heavy <= bound and isfinite(heavy):
                    found.append((b, a, heavy))
    found.sort()
    last, first, weights = zip(*found, strict=True) if found else ((), (), ())
    return _Pieces(np.array(first, int), np.array(last, int), np.array(weights, float))


class _Table:
    """Least values of ``join`` over the pieces of partitions of 0 … b into k, for every b and k."""

    def __init__(self, size: int, n: int, pieces: _Pieces, join: np.ufunc) -> None:
        self.pieces, self.join = pieces, join
        self.reach = np.full((n + 1, size + 1), np.inf)
        self.reach[0, 0] = 0.0
        ends, self.starts = np.unique(pieces.last, return_index=True)
        self.place = {int(end): i for i, end in enumerate(ends)}
        for before, reach in pairwise(self.reach):
            if len(ends):
                joined = join(before[pieces.first], pieces.weight)
                reach[ends] = np.minimum.reduceat(joined, self.starts)

    @property
    def value(self) -> float:
        """That of the whole; infinite where there is no partition."""
        return float(self.reach[-1, -1])

    def bounds(self) -> tuple[int, ...]:
        """The partition that has it, of several the one whose last pieces begin first."""
        found, stops = [self.reach.shape[1] - 1], [*self.starts, len(self.pieces.last)]
        for before in self.reach[-2::-1]:
            i = self.place[found[-1]]
            here = slice(stops[i], stops[i + 1])
            first = self.pieces.first[here]
            joined = self.join(before[first], self.pieces.weight[here])
            found.append(int(first[joined.argmin()]))
        return tuple(reversed(found))
