"""Hierarchy: the levels of chains that multigrid in time works on, and its cycles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from pararealize.errors import MethodError
from pararealize.ir.methods import MGRIT
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import Target

#: Slices above which only those kinds of coarse propagators are measured on a solve that one
#: interval lets hope for more than the best one measured.
MANY = 64


@dataclass(frozen=True)
class Level:
    """A chain that stands for the slices 1 … n of a network.

    ``bounds`` are the slice boundaries that are points of this level, 0 = b_0 < b_1 < … = n; its
    step J goes from b_{J-1} to b_J. One of its layers stands for ``stride`` of the network's.
    """

    bounds: tuple[int, ...]
    stride: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.bounds) - 1

    def mirrored(self) -> Level:
        """The level seen from the end of the chain, as adjoints see it."""
        n = self.bounds[-1]
        return Level(tuple(n - b for b in reversed(self.bounds)), self.stride)

    def intervals(self, coarser: Level) -> Iterator[tuple[int, int]]:
        """Between neighbouring C-points, by their numbers among this level's points."""
        yield from pairwise(self.bounds.index(b) for b in coarser.bounds)


def hierarchy(longest: Sequence[int], factors: Sequence[int]) -> tuple[Level, ...]:
    """Levels for slices whose longest runs of residual layers are ``longest``.

    Every level strides inside the slices by its coarsening factor; where all slices are down to
    one layer, as many neighbours become one.

    Raises:
        MethodError: a level would be like the one before, or a factor is larger than the chain.

    """
    n, total = len(longest), sum(longest)
    levels = [Level(tuple(range(n + 1)), 1)]
    for number, c in enumerate(factors, start=2):
        if c > max(total, 2):
            raise MethodError(
                f"coarsening={c} is more than the {total} residual layers that the network has: "
                f"write MGRIT(coarsening={max(2, total // n)})."
            )
        levels.append(_coarser(levels[-1], max(longest), c, number))
    return tuple(levels)


def _coarser(level: Level, longest: int, c: int, number: int) -> Level:
    if level.stride < longest:
        return Level(level.bounds, level.stride * c)
    if level.steps == 1:
        raise MethodError(
            f"level {number} would leave nothing: level {number - 1} has one layer already. Write "
            f"MGRIT(levels={number - 1}), or a smaller coarsening."
        )
    return Level((*level.bounds[:-1:c], level.bounds[-1]), level.stride * c)


def propagator(level: int, step: int) -> Target:
    """What the tasks of a level apply: Φ of a slice on level 1, else G of the level's step."""
    return Target.fine(step) if level == 1 else Target.coarse(step, level)


class Feature(NamedTuple):
    """What a slice's layers compute of the network's inputs alone: by what, and the value."""

    target: Target
    value: str


@dataclass(frozen=True)
class Cycles:
    """A schedule of so many cycles.

    ``linearised`` says, of a schedule for states, at which of them every propagator is linearised
    for the adjoints.
    """

    count: int
    schedule: Schedule
    linearised: Mapping[Target, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Iteration:
    """What a multigrid solver runs: states forward, adjoints back.

    Of each, schedules of more and more cycles, the last one the serial network. ``warm`` takes
    ``guesses``, where the call before made any: by the coarse propagator that stepped from a state
    there, the value that stands for that state. ``features`` are what propagators read besides the
    state.
    """

    levels: tuple[Level, ...]
    method: MGRIT
    forward: tuple[Cycles, ...]
    adjoint: tuple[Cycles, ...]
    warm: tuple[Cycles, ...] = ()
    guesses: Mapping[Target, str] = field(default_factory=dict)
    features: Mapping[Target, tuple[Feature, ...]] = field(default_factory=dict)

    @property
    def last_adjoint(self) -> str:
        """The value that adjoints start from: λ_n, the adjoint of the last state."""
        return self.adjoint[0].schedule.inputs[0]
