"""Leftmost: of a piece of a chain the first one of the same layers, which costs the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final


@final
class Leftmost:
    """Of the layers ``first`` … ``last - 1`` the leftmost ones that are like them.

    They are looked for in steps of the period in which layers repeat there. No piece is moved to
    the network's first layer, which reads the network's input.

    Args:
        kinds: a number for every layer, equal for like layers.
        periods: for every layer the number of layers in a block that repeats, 0 where none does.

    """

    def __init__(self, kinds: Sequence[int], periods: Sequence[int]) -> None:
        self._periods = tuple(period or 1 for period in periods)
        self._begins = {p: _begins(kinds, p) for p in set(self._periods)}

    def __call__(self, first: int, last: int) -> tuple[int, int]:
        """Where they begin and end."""
        period = self._periods[first]
        begin = max(self._begins[period][last - 1], period + 1)
        if begin > first:
            return first, last
        moved = period * ((first - begin) // period + 1)
        return first - moved, last - moved


def _begins(kinds: Sequence[int], period: int) -> tuple[int, ...]:
    """For every layer the first of those before it that are all like the one a period before."""

    def each() -> Iterable[int]:
        begin = period
        for i, kind in enumerate(kinds):
            if i < period or kinds[i - period] != kind:
                begin = i + 1
            yield begin

    return tuple(each())
