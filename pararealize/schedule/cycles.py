"""Cycles: relaxation, restriction and correction on a chain of levels, in multigrid's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from pararealize.ir.methods import MGRIT
from pararealize.ir.schedule import Watch
from pararealize.ir.task import Role
from pararealize.schedule.directions import Direction, Source


@final
class CycleWriter:
    """The cycles of a method on a direction's chain.

    On every level ``points`` are the states u_0 … u_m and ``sources`` the s_j of its equations
    u_j = Φ_j(u_{j-1}) + s_j. Points that the next level has as well are C-points, the others
    F-points.
    """

    def __init__(self, direction: Direction, method: MGRIT) -> None:
        self.direction, self.levels, self.method = direction, direction.levels, method
        self.watches: list[Watch] = []
        self.relaxed: list[str] = []
        self.none: list[Source | None] = [None] * len(self.levels[0].bounds)
        self.points: list[str] = []
        self.done = 0

    def cycle(
        self,
        level: int,
        points: list[str],
        sources: Sequence[Source | None],
        kind: str,
        number: int,
    ) -> list[str]:
        """The points of a level after a V- or an F-cycle, which writes on those it was given.

        ::

            level 1   relax ↘                              ↗ correct
            level 2           relax ↘             ↗ correct
            level 3                   forward solve
        """
        if level == len(self.levels):
            return self.forward_solve(level, points[0], sources)
        ends = self.f_relax(level, points, sources)
        for _ in range(self.method.sweeps):
            self.c_relax(level, points, ends)
            ends = self.f_relax(level, points, sources)
        coarse = [points[point] for point in self.c_points(level)]  # restriction
        self.watch_residual(level, coarse, ends, number)
        below = self.fas_sources(level, coarse, ends)
        coarse = self.cycle(level + 1, coarse, below, kind, number)
        if kind == "F" and level + 1 < len(self.levels):
            coarse = self.cycle(level + 1, coarse, below, "V", number)
        return self.error_correction(level, points, coarse, sources)

    def forward_solve(self, level: int, start: str, sources: Sequence[Source | None]) -> list[str]:
        """All points of a level, one after another."""
        points = [start]
        for step in range(1, self.levels[level - 1].steps + 1):
            points.append(self.direction.step(level, step, points[-1], sources[step]))
        return points

    def f_relax(self, level: int, points: list[str], sources: Sequence[Source | None]) -> list[str]:
        """F-relaxation: every interval from its C-point on; where each ends, beside its C-point."""
        ends, found = [points[0]], []
        for first, last in self.levels[level - 1].intervals(self.levels[level]):
            value = points[first]
            for step in range(first + 1, last + 1):
                value = self.direction.step(level, step, value, sources[step])
                found.append(value)
                if step < last:
                    points[step] = value
            ends.append(value)
        if level == 1:
            self.relaxed = found
        return ends

    def c_relax(self, level: int, points: list[str], ends: Sequence[str]) -> None:
        """Set the C-points: in C-relaxation, to what the intervals before them end with."""
        for point, value in zip(self.c_points(level), ends, strict=True):
            points[point] = value

    def watch_residual(
        self, level: int, coarse: Sequence[str], ends: Sequence[str], number: int
    ) -> None:
        """Watch the residuals of a level's equations, which relaxation leaves at C-points alone."""
        for b, point, end in zip(self.levels[level].bounds, coarse, ends, strict=True):
            if point != end:
                self.watches.append(Watch(number, b, end, point, level))

    def fas_sources(
        self, level: int, coarse: Sequence[str], ends: Sequence[str]
    ) -> list[Source | None]:
        """The sources of the next level, of the full approximation scheme.

        s_J = (what relaxation made of C-point J) - G_J(C-point J - 1), so that a converged level
        solves the equations of the next.
        """
        steps = range(1, self.levels[level].steps + 1)
        applied = [self.direction.apply(level + 1, step, coarse[step - 1]) for step in steps]
        return [None, *zip(ends[1:], applied, strict=True)]

    def error_correction(
        self,
        level: int,
        points: Sequence[str],
        coarse: Sequence[str],
        sources: Sequence[Source | None],
    ) -> list[str]:
        """The points of a level with its C-points from the next one, and relaxed in between.

        Those of level 1 are relaxed by the next cycle, or not at all.
        """
        found = list(points)
        self.c_relax(level, found, coarse)
        if level > 1:
            self.f_relax(level, found, sources)
        return found

    def c_points(self, level: int) -> list[int]:
        """Numbers of a level's points that the next one has as well."""
        return [self.levels[level - 1].bounds.index(b) for b in self.levels[level].bounds]

    def guess(self, start: str, previous: Sequence[str] | None) -> list[str]:
        """The first states at the points of level 1 that level 2 has as well."""
        self.direction.coarse = Role.GUESS
        top = 2 if self.method.guess in {"coarse", "previous"} else len(self.levels)
        points = list(previous) if previous else self.forward_solve(top, start, self.none)
        for level in range(top - 1, 0, -1):
            blank = [start] * len(self.levels[level - 1].bounds)
            points = self.error_correction(level, blank, points, self.none)
            if level > 1 and self.method.guess == "full":
                points = self.cycle(level, points, self.none, "V", 0)
        self.watches.clear()
        self.direction.coarse = Role.COARSE
        return points

    def solve(self, start: str, cycles: int, previous: Sequence[str] | None = None) -> list[str]:
        """The points of level 1 after some cycles, which go on from those written before."""
        self.points = self.points or self.guess(start, previous)
        for number in range(self.done, cycles):
            self.points = self.cycle(1, self.points, self.none, self.method.cycle, number)
        self.done = max(self.done, cycles)
        return self.points

    def solve_serially(self, start: str) -> list[str]:
        """The points of level 1, one after another: what as many cycles as there are steps make.

        Those would be written in as many steps as the square of their number.
        """
        points = self.forward_solve(1, start, self.none)
        self.relaxed = points[1:]
        return points
