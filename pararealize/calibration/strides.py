"""Strides: what coarse networks bridge, from one interface to another, on every level."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from pararealize.ir.methods import Parareal
from pararealize.ir.target import Target

#: Interfaces before and after some subnetworks.
Interval = tuple[int, int]

#: How far the seeds of one level's networks are from those of the next.
APART = 10_000


class Stride(NamedTuple):
    """A step of a level of corrections: on level 2 a subnetwork, above a group of them."""

    level: int
    number: int
    start: int
    end: int

    @property
    def target(self) -> Target:
        """What corrects it."""
        return Target.coarse(self.number, self.level)

    @property
    def guess(self) -> Target:
        """What a coarse sweep applies, where corrections are residual."""
        return Target.guess(self.number, self.level if self.level > 2 else 1)

    @property
    def interval(self) -> Interval:
        """The interfaces that it leads from and to."""
        return self.start, self.end

    @property
    def seed(self) -> int:
        """What is added to a seed, so that no two networks start from the same numbers."""
        return self.number + APART * (self.level - 2)


def piece(j: int) -> Interval:
    """The interfaces before and after subnetwork j."""
    return j - 1, j


def strides(n: int, method: Parareal) -> tuple[Stride, ...]:
    """Those of all levels that coarse propagators correct or guess, lower levels first.

    A group of one subnetwork has the group's network alone, and where subnetworks themselves
    correct, groups are these one after another.
    """
    levels = method.points(n)[: 1 if method.coarse == "fine" else None]
    every = [
        Stride(level, number, *ends)
        for level, points in enumerate(levels, start=2)
        for number, ends in enumerate(pairwise(points), start=1)
    ]
    highest = {each.interval: each.level for each in every}
    return tuple(each for each in every if each.level == highest[each.interval])
