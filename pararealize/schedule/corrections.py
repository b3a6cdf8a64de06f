"""Corrections: what a sweep makes of the fine states, one after another or in levels.

With two levels all subnetworks are corrected one after another. With three, groups of neighbours
are, by a coarse network H_J of each group from b_{J-1} to b_J, and the path has about c + n/c
corrections instead of n::

    1. ũ_j = v_j + F_j(ũ_{j-1} - u_{j-1})           in all groups side by side, from no jump
    2. u'_{b_J} = ũ_{b_J} + H_J(u'_{b_{J-1}} - u_{b_{J-1}})       from group to group
    3. u'_j = v_j + F_j(u'_{j-1} - u_{j-1})         in all groups side by side, from their starts

Step 2 over many groups is done in groups itself. Each step of each level is one correction; in
difference form it is G_j(u') + v_j - G_j(u).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from pararealize.ir.coarsening import Points
from pararealize.ir.schedule import Watch
from pararealize.ir.task import INPUT, Role
from pararealize.schedule.sweep_writer import SweepWriter

#: States by interface.
States = dict[int, str]


def corrected(writer: SweepWriter, k: int, old: list[str], fine: list[str]) -> list[str]:
    """The states after sweep k, from those before and what the subnetworks made of these."""
    sweep, n = _Sweep(writer, k, old), len(old) - 1
    new = sweep.solved(2, {0: INPUT, **dict(enumerate(fine[1:], 1))})
    for j in range(sweep.exact + 1, n):
        named = (new[j], *sweep.tentative.get(j, ()))
        writer.watches.append([Watch(k, j, name, old[j]) for name in named])
    if writer.corrections and n > sweep.exact + 1:
        writer.watches.append([Watch(k, n, new[n], fine[n])])
    return [new[j] for j in range(n + 1)]


@dataclass
class _Sweep:
    """One sweep, from the states ``old``; ``tentative`` ones are known before those of groups."""

    writer: SweepWriter
    k: int
    old: list[str]
    tentative: dict[int, list[str]] = field(default_factory=dict)

    @property
    def exact(self) -> int:
        """The last interface that has no jump: its state before the sweep was exact."""
        return self.k if self.writer.reuse else 0

    def solved(self, level: int, base: States) -> States:
        """New states at a level's points, of what they are without a jump at the point before."""
        points = self.writer.points[level - 2 :]
        if len(points) == 1:
            return self._along(level, points[0], base, {0: INPUT})
        groups = [tuple(p for p in points[0] if a <= p <= b) for a, b in pairwise(points[1])]
        self._old_images(level + 1, points[1])
        found: States = {0: INPUT}
        for group in groups:
            found |= self._along(level, group, base, {})
        ends = self.solved(level + 1, {end: found[end] for end in points[1]})
        for group in groups:
            if group[0] > self.exact:
                self._keep_tentative(group, found)
                found |= self._along(level, group[:-1], base, {group[0]: ends[group[0]]})
        return found | ends

    def _along(self, level: int, points: Points, base: States, start: States) -> States:
        """New states one after another, those at the start as given; without one it has no jump."""
        tentative, found = not start and points[0] > self.exact, dict(start)
        for before, after in pairwise(points):
            if before not in found or before <= self.exact:
                found[after] = base[after]
            else:
                step = _Step(self, level, after, tentative)
                found[after] = step.correct(found[before], base[after])
        return found

    def _keep_tentative(self, group: Points, found: Mapping[int, str]) -> None:
        """What is known at the interfaces of a group before that at its start is."""
        for point in group[1:]:
            self.tentative.setdefault(point, []).append(found[point])

    def _old_images(self, level: int, points: Points) -> None:
        """G of a level's old states: they wait for nothing, and so are not waited for."""
        if self.writer.method.correction == "difference":
            for before, after in pairwise(points):
                if before > self.exact:
                    _Step(self, level, after).old_image()


@dataclass(frozen=True)
class _Step:
    """The correction that a level's step to an interface makes, and the names of its values."""

    sweep: _Sweep
    level: int
    end: int
    tentative: bool = False

    def correct(self, state: str, base: str) -> str:
        """The new state after the step, of that before and of what it is without a jump."""
        by_jump = self.sweep.writer.method.correction == "residual"
        return (self._by_jump if by_jump else self._by_difference)(state, base)

    def _by_jump(self, state: str, base: str) -> str:
        """The sum v + F(u'_before - u_before)."""
        writer, k = self.sweep.writer, self.sweep.k
        piece = self._start + 1 if self._is_chain else self.end
        reads = (state, self.sweep.old[self._start])
        jump = writer.combine(self._name("r", self._number - 1, k), Role.JUMP, "+-", reads, piece)
        correction = self._applied("c", k, jump)
        reads = (base, correction)
        return writer.combine(self._state, Role.CORRECTION, "++", reads, self.end)

    def _by_difference(self, state: str, base: str) -> str:
        """The sum G(u'_before) + v - G(u_before)."""
        before, k = self.old_image(), self.sweep.k
        after = self._applied("g", k if self.tentative else k + 1, state)
        if self.tentative and before == base:
            return after
        # The newest first: the sum has its layout in memory, in which masks are drawn, and
        # where G = Φ the others cancel, so that it has its numbers to the last digit.
        reads = (after, base, before)
        return self.sweep.writer.combine(self._state, Role.CORRECTION, "++-", reads, self.end)

    def old_image(self) -> str:
        """G of the old state before the step."""
        old = self.sweep.old[self._start]
        return _Step(self.sweep, self.level, self.end)._applied("g", self.sweep.k, old)

    def _applied(self, letter: str, k: int, read: str) -> str:
        writer, span = self.sweep.writer, (self._start, self.end)
        target = writer.corrector(self._number, self.level)
        return writer.coarse(self._name(letter, self._number, k), target, read, span)

    @property
    def _number(self) -> int:
        """The step's, counted from 1."""
        return self.sweep.writer.numbers[self.level - 2][self.end]

    @property
    def _start(self) -> int:
        return self.sweep.writer.points[self.level - 2][self._number - 1]

    @property
    def _is_chain(self) -> bool:
        return self.level > 2 and self.sweep.writer.method.coarse == "fine"

    @property
    def _state(self) -> str:
        k = self.sweep.k
        return self._name("u", self._number, k) if self.tentative else f"u{self.end}.{k + 1}"

    def _name(self, letter: str, number: int, k: int) -> str:
        level = f"{self.level}." if self.level > 2 else ""
        return f"{'t' if self.tentative else ''}{letter}{level}{number}.{k}"
