"""Wilson's interval against published values, and the share that vouches for another."""

from __future__ import annotations

import doctest

import pytest

from pararealize.ir import shares
from pararealize.ir.shares import interval, required


def test_the_examples_hold() -> None:
    assert doctest.testmod(shares) == (0, 3)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81 / 263, 263, 0.2553, 0.3662), (15 / 148, 148, 0.0624, 0.1605), (0.0, 20, 0.0, 0.1611)],
)
def test_intervals_are_the_published_ones(
    share: float, count: int, low: float, high: float
) -> None:
    assert interval(share, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.975])
@pytest.mark.parametrize("count", [30, 800, 100_000])
@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.995])
def test_what_is_required_vouches_for_what_is_wanted(
    wanted: float, count: int, confidence: float
) -> None:
    share = required(wanted, count, confidence)
    low, _ = interval(share, count, 2 * confidence - 1)
    if interval(1.0, count, 2 * confidence - 1)[0] < wanted:
        assert share == 1.0  # so few can say no more
    else:
        assert low == pytest.approx(wanted, abs=1e-9)
        assert wanted < share <= 1


def test_a_margin_shrinks_with_samples_and_is_none_at_one_half() -> None:
    assert required(0.9, 100, 0.5) == 0.9
    assert required(0.9, 100, 0.9) > required(0.9, 1000, 0.9) > 0.9
    # What was 99.75% of 800 held-out samples became 99.10% of 1,000 others.
    assert required(0.995, 800, 0.9) > 0.9975
