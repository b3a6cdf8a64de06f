"""MGRIT: cycles of multigrid in time as schedules, for states and for adjoints, without tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from pararealize.ir.hierarchy import Cycles, Iteration, Level, propagator
from pararealize.ir.methods import MGRIT
from pararealize.ir.schedule import INPUT, Schedule, Task, Watch, needed
from pararealize.schedule.directions import Adjoint, Direction, Forward, Source


class CycleWriter:
    """The cycles of a method on a direction's chain."""

    def __init__(self, direction: Direction, method: MGRIT) -> None:
        self.direction, self.levels, self.method = direction, direction.levels, method
        self.watches: list[Watch] = []
        self.relaxed: list[str] = []

    def sweep(self, level: int, start: str, sources: Sequence[Source | None]) -> list[str]:
        """All points of a level, one after another."""
        points = [start]
        for step in range(1, self.levels[level - 1].steps + 1):
            points.append(self.direction.step(level, step, points[-1], sources[step]))
        return points

    def relax(self, level: int, points: list[str], sources: Sequence[Source | None]) -> list[str]:
        """F-relaxation: every interval from its C-point on; what that makes of the next ones."""
        made, found = [points[0]], []
        for first, last in self.levels[level - 1].intervals(self.levels[level]):
            value = points[first]
            for step in range(first + 1, last + 1):
                value = self.direction.step(level, step, value, sources[step])
                found.append(value)
                if step < last:
                    points[step] = value
            made.append(value)
        if level == 1:
            self.relaxed = found
        return made

    def cycle(
        self,
        level: int,
        points: list[str],
        sources: Sequence[Source | None],
        kind: str,
        number: int,
    ) -> list[str]:
        """Relax, restrict, solve the coarser chain, inject: the points of a level after a cycle.

        ::

            level 1   relax ↘                     ↗ inject
            level 2           relax ↘     ↗ inject
            level 3                   sweep
        """
        if level == len(self.levels):
            return self.sweep(level, points[0], sources)
        coarser = self.levels[level]
        at = [self.levels[level - 1].bounds.index(b) for b in coarser.bounds]
        made = self.relax(level, points, sources)
        for _ in range(self.method.sweeps):
            for point, value in zip(at, made, strict=True):
                points[point] = value
            made = self.relax(level, points, sources)
        coarse = [points[point] for point in at]
        self._watch(level, coarse, made, number)
        below: list[Source | None] = [None]
        for step in range(1, coarser.steps + 1):
            below.append((made[step], self.direction.apply(level + 1, step, coarse[step - 1])))
        coarse = self.cycle(level + 1, coarse, below, kind, number)
        if kind == "F" and level + 1 < len(self.levels):
            coarse = self.cycle(level + 1, coarse, below, "V", number)
        return self.inject(level, points, coarse, sources)

    def inject(
        self,
        level: int,
        points: Sequence[str],
        coarse: Sequence[str],
        sources: Sequence[Source | None],
    ) -> list[str]:
        """The points of a level from those of the coarser one, relaxed in between."""
        found = list(points)
        for b, value in zip(self.levels[level].bounds, coarse, strict=True):
            found[self.levels[level - 1].bounds.index(b)] = value
        if level > 1:
            self.relax(level, found, sources)
        return found

    def guess(self, start: str, previous: Sequence[str] | None) -> list[str]:
        """The first states at the points of level 1 that level 2 has as well."""
        top = 2 if self.method.guess in {"coarse", "previous"} else len(self.levels)
        none: list[Source | None] = [None] * (len(self.levels[0].bounds))
        points = list(previous) if previous else self.sweep(top, start, none)
        for level in range(top - 1, 1, -1):
            blank = [start] * len(self.levels[level - 1].bounds)
            points = self.inject(level, blank, points, none)
            if self.method.guess == "full":
                points = self.cycle(level, points, none, "V", 0)
        blank = [start] * len(self.levels[0].bounds)
        self.watches.clear()
        return self.inject(1, blank, points, none)

    def solve(self, start: str, cycles: int, previous: Sequence[str] | None = None) -> list[str]:
        """The points of level 1 after some cycles."""
        none: list[Source | None] = [None] * len(self.levels[0].bounds)
        points = self.guess(start, previous)
        for number in range(cycles):
            points = self.cycle(1, points, none, self.method.cycle, number)
        return points

    def _watch(self, level: int, old: Sequence[str], new: Sequence[str], number: int) -> None:
        for b, before, after in zip(self.levels[level].bounds, old, new, strict=True):
            if before != after:
                self.watches.append(Watch(number, b, after, before, level))


def mgrit_schedule(
    levels: tuple[Level, ...],
    method: MGRIT,
    cycles: int,
    *,
    head: bool = True,
    warm: bool = False,
    features: Mapping[str, tuple[str, ...]] | None = None,
) -> Cycles:
    """``cycles`` cycles for the states of a network, not yet placed on ranks.

    On every level the equations are u_j = Φ_j(u_{j-1}) + s_j. A cycle relaxes them, and corrects
    the C-points by the chain of the next level, with the sources
    s_J = (what relaxation made of the point) - G_J(the point before)::

        v_j = fine.j(u_{j-1})          g_j = coarse.j(u_{j-1})          on level 3 g3_j = coarse3.j
        u_j = g_j + v_j - (g_j of the old state)

    What has not moved is not computed again, so that as many cycles as level 2 has steps are the
    serial network. ``warm`` guesses from the inputs ``p1``, ``p2``, …. ``features`` are the values
    f_j = inputs.j(x) that propagators read besides the state.

    Source: Günther et al., arXiv 1812.04352, algorithms 1 and 2; XBraid.
    """
    n = levels[0].bounds[-1]
    direction = Forward(levels, features=features or {})
    solver = CycleWriter(direction, method)
    before = [INPUT, *(f"p{b}" for b in levels[1].bounds[1:])] if warm else None
    states = solver.solve(INPUT, cycles, before)
    output = "out" if head else states[-1]
    if head:
        direction.tasks.append(Task("out", "apply", (states[-1],), "head", piece=n))
    tasks = _commit_last(needed(direction.tasks, [output]), transposed=False)
    title = f"MGRIT, n = {n}, {len(levels)} levels, {cycles} {method.cycle}-cycles"
    inputs = tuple(before[:-1]) if before else (INPUT,)
    schedule = _schedule(tasks, output, solver.watches, inputs, title)
    return Cycles(cycles, schedule, _linearised(levels, method, tasks, states))


def adjoint_schedule(levels: tuple[Level, ...], method: MGRIT, cycles: int) -> Cycles:
    """``cycles`` cycles for the adjoints, from λ_n down, not yet placed on ranks.

    The chain λ_{j-1} = Φ_j'(u_{j-1})ᵀ λ_j is solved as that of the states is; the last relaxation
    takes the gradients of the weights.
    """
    n = levels[0].bounds[-1]
    direction = Adjoint(tuple(level.mirrored() for level in levels))
    cold = replace(method, guess="coarse" if method.guess == "previous" else method.guess)
    solver = CycleWriter(direction, cold)
    start = f"λ{n}"
    solver.solve(start, cycles)
    watches = [replace(w, interface=n - w.interface) for w in solver.watches]
    roots = list(dict.fromkeys(solver.relaxed))
    tasks = _commit_last(needed(direction.tasks, roots), transposed=True)
    title = f"adjoint of MGRIT, n = {n}, {len(levels)} levels, {cycles} {method.cycle}-cycles"
    return Cycles(cycles, _schedule(tasks, roots[-1], watches, (start,), title))


def iteration(
    levels: tuple[Level, ...], method: MGRIT, *, head: bool, seeing: Iterable[int] = ()
) -> Iteration:
    """Schedules of as many cycles as the method asks for, of more, and of the serial network.

    The slices ``seeing`` compute values of the network's inputs alone.
    """
    exact = levels[1].steps
    features = _features(levels, frozenset(seeing))
    write = partial(mgrit_schedule, levels, method, head=head, features=features)

    def counts(first: int) -> list[int]:
        most = max(first, method.max_cycles)
        return [*range(min(first, exact), min(most, exact - 1) + 1), exact]

    forward = [write(k) for k in counts(method.forward_cycles)]
    adjoint = [adjoint_schedule(levels, method, k) for k in counts(method.backward_cycles)]
    warm: list[Cycles] = []
    if method.guess == "previous" and exact > 1:
        warm = [write(k, warm=True) for k in counts(method.forward_cycles)]
    return Iteration(levels, method, tuple(forward), tuple(adjoint), tuple(warm), features)


def _features(levels: tuple[Level, ...], seeing: frozenset[int]) -> dict[str, tuple[str, ...]]:
    """The values that every propagator reads besides the state: those of its slices."""
    found = {}
    for number, level in enumerate(levels, start=1):
        for step, (first, last) in enumerate(pairwise(level.bounds), start=1):
            names = tuple(f"f{j}.0" for j in range(first + 1, last + 1) if j in seeing)
            if names:
                found[propagator(number, step)] = names
    return found


def _linearised(
    levels: tuple[Level, ...], method: MGRIT, tasks: Sequence[Task], states: Sequence[str]
) -> dict[str, str]:
    """Where every propagator is linearised: where it was applied last, else at the final states.

    Fine propagators that are evaluated again for the adjoints are so at the newest state that
    their rank knows.
    """
    found = {
        propagator(number, step): states[level.bounds[step - 1]]
        for number, level in enumerate(levels, start=1)
        for step in range(1, level.steps + 1)
    }
    applied = [task for task in tasks if task.op == "apply" and task.propagator in found]
    found |= {task.propagator: task.reads[0] for task in applied}
    if method.storage == "points":
        starts = {propagator(2, s): b for s, b in enumerate(levels[1].bounds[:-1], start=1)}
        newest = {starts.get(t.propagator): t.reads[0] for t in applied}
        for j in range(1, levels[0].steps + 1):
            found[f"fine.{j}"] = newest.get(j - 1, found[f"fine.{j}"])
    return found


def _commit_last(tasks: list[Task], *, transposed: bool) -> tuple[Task, ...]:
    """Statistics, or gradients of weights, move with the last application of a propagator only.

    Coarse propagators borrow their weights.
    """
    last = {task.propagator: i for i, task in enumerate(tasks) if task.op == "apply"}

    def commits(i: int, task: Task) -> bool:
        borrows = transposed and task.propagator.startswith("coarse")
        return task.op != "apply" or (last[task.propagator] == i and not borrows)

    return tuple(replace(task, commits=commits(i, task)) for i, task in enumerate(tasks))


def _schedule(
    tasks: tuple[Task, ...],
    output: str,
    watches: Iterable[Watch],
    inputs: tuple[str, ...],
    title: str,
) -> Schedule:
    made = {task.value for task in tasks} | set(inputs)
    kept = tuple(watch for watch in watches if {watch.new, watch.old} <= made)
    return Schedule(tasks, output, kept, inputs, title=title).verify()
