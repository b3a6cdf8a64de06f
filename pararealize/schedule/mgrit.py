"""MGRIT: cycles of multigrid in time as schedules, for states and for adjoints, without tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import final

from pararealize.ir.hierarchy import Cycles, Feature, Iteration, Level, propagator
from pararealize.ir.methods import MGRIT
from pararealize.ir.schedule import Schedule, Watch, commit_last, needed
from pararealize.ir.target import HEAD, Target
from pararealize.ir.task import INPUT, Role, Task
from pararealize.schedule.cycles import CycleWriter
from pararealize.schedule.directions import Adjoint, Direction, Forward


def mgrit_schedule(
    levels: tuple[Level, ...],
    method: MGRIT,
    cycles: int,
    *,
    head: bool = True,
    warm: bool = False,
    features: Mapping[Target, tuple[Feature, ...]] | None = None,
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
    return _States(levels, method, head=head, warm=warm, features=features or {}).after(cycles)


def adjoint_schedule(levels: tuple[Level, ...], method: MGRIT, cycles: int) -> Cycles:
    """``cycles`` cycles for the adjoints, from λ_n down, not yet placed on ranks.

    The chain λ_{j-1} = Φ_j'(u_{j-1})ᵀ λ_j is solved as that of the states is; the last relaxation
    takes the gradients of the weights.
    """
    return _Adjoints(levels, method).after(cycles)


class _SolveWriter(ABC):
    """Writes schedules of more and more cycles, which go on where those of fewer ended."""

    def __init__(self, levels: tuple[Level, ...], method: MGRIT, direction: Direction) -> None:
        self.levels, self.method, self.direction = levels, method, direction
        self.solver, self.n = CycleWriter(direction, method), levels[0].bounds[-1]

    @abstractmethod
    def after(self, cycles: int) -> Cycles:
        """So many cycles, not less than were asked for before."""

    @abstractmethod
    def serial(self, cycles: int) -> Cycles:
        """The serial network, as so many cycles are; the last that is asked for."""


@final
class _States(_SolveWriter):
    """Cycles for the states, and the head behind them."""

    def __init__(
        self,
        levels: tuple[Level, ...],
        method: MGRIT,
        *,
        head: bool,
        features: Mapping[Target, tuple[Feature, ...]],
        warm: bool = False,
    ) -> None:
        super().__init__(levels, method, Forward(levels, features=features))
        self.head = head
        self.before = [INPUT, *map(_guess, levels[1].bounds[1:])] if warm else None

    def after(self, cycles: int) -> Cycles:
        return self._cycles(cycles, self.solver.solve(INPUT, cycles, self.before))

    def serial(self, cycles: int) -> Cycles:
        return self._cycles(cycles, self.solver.solve_serially(INPUT))

    def _cycles(self, cycles: int, states: Sequence[str]) -> Cycles:
        n, method, tasks = self.n, self.method, list(self.direction.tasks)
        output = "out" if self.head else states[-1]
        if self.head:
            tasks.append(Task("out", "apply", Role.HEAD, (states[-1],), HEAD, piece=n))
        kept = commit_last(needed(tasks, [output]))
        title = f"MGRIT, n = {n}, {len(self.levels)} levels, {cycles} {method.cycle}-cycles"
        inputs = tuple(self.before[:-1]) if self.before else (INPUT,)
        schedule = _schedule(kept, output, self.solver.watches, inputs, title)
        return Cycles(cycles, schedule, _linearised(self.levels, method, kept, states))


@final
class _Adjoints(_SolveWriter):
    """Cycles for the adjoints, the last relaxation of which takes the gradients of the weights."""

    def __init__(self, levels: tuple[Level, ...], method: MGRIT) -> None:
        cold = replace(method, guess="coarse" if method.guess == "previous" else method.guess)
        super().__init__(levels, cold, Adjoint(tuple(level.mirrored() for level in levels)))
        self.start = f"λ{self.n}"

    def after(self, cycles: int) -> Cycles:
        self.solver.solve(self.start, cycles)
        return self._cycles(cycles)

    def serial(self, cycles: int) -> Cycles:
        self.solver.solve_serially(self.start)
        return self._cycles(cycles)

    def _cycles(self, cycles: int) -> Cycles:
        n, solver = self.n, self.solver
        watches = [replace(w, interface=n - w.interface) for w in solver.watches]
        roots = list(dict.fromkeys(solver.relaxed))
        # Coarse propagators borrow their weights: gradients are those of the fine ones.
        tasks = tuple(
            replace(task, commits=False)
            if task.commits and task.role in {Role.GUESS, Role.COARSE}
            else task
            for task in commit_last(needed(self.direction.tasks, roots))
        )
        levels, cycle = len(self.levels), self.method.cycle
        title = f"adjoint of MGRIT, n = {n}, {levels} levels, {cycles} {cycle}-cycles"
        return Cycles(cycles, _schedule(tasks, roots[-1], watches, (self.start,), title))


def forward_cycles(
    levels: tuple[Level, ...], method: MGRIT, *, head: bool, with_features: Iterable[int] = ()
) -> Cycles:
    """The cycles for the states that every call runs: the first of an :func:`iteration`."""
    features = _features(levels, frozenset(with_features))
    count = min(method.forward_cycles, levels[1].steps)
    return mgrit_schedule(levels, method, count, head=head, features=features)


def iteration(
    levels: tuple[Level, ...], method: MGRIT, *, head: bool, with_features: Iterable[int] = ()
) -> Iteration:
    """Schedules of as many cycles as the method asks for, of more, and of the serial network.

    Of the slices ``with_features`` values of the network's inputs are computed apart.
    """
    exact = levels[1].steps
    features = _features(levels, frozenset(with_features))

    def written(writer: _SolveWriter, first: int) -> tuple[Cycles, ...]:
        most = min(max(first, method.max_cycles), exact - 1)
        counts = range(min(first, exact), most + 1)
        return (*map(writer.after, counts), writer.serial(exact))

    states = partial(_States, levels, method, head=head, features=features)
    forward = written(states(), method.forward_cycles)
    adjoint = written(_Adjoints(levels, method), method.backward_cycles)
    warm: tuple[Cycles, ...] = ()
    guesses: dict[Target, str] = {}
    if method.guess == "previous" and exact > 1:
        warm = written(states(warm=True), method.forward_cycles)
        inner = enumerate(levels[1].bounds[1:-1], start=2)
        guesses = {propagator(2, step): _guess(bound) for step, bound in inner}
    return Iteration(levels, method, forward, adjoint, warm, guesses, features)


def _guess(bound: int) -> str:
    """The value that stands for a point's state in the call before."""
    return f"p{bound}"


def _features(
    levels: tuple[Level, ...], with_features: frozenset[int]
) -> dict[Target, tuple[Feature, ...]]:
    """What every propagator reads besides the state: that of its slices."""
    every = {j: Feature(Target.inputs(j), f"f{j}.0") for j in sorted(with_features)}
    found = {}
    for number, level in enumerate(levels, start=1):
        for step, (first, last) in enumerate(pairwise(level.bounds), start=1):
            own = tuple(every[j] for j in range(first + 1, last + 1) if j in every)
            if own:
                found[propagator(number, step)] = own
    return found


def _linearised(
    levels: tuple[Level, ...], method: MGRIT, tasks: Sequence[Task], states: Sequence[str]
) -> dict[Target, str]:
    """Where every propagator is linearised: where it was applied last, else at the final states.

    Fine propagators that are evaluated again for the adjoints are so at the newest state that
    their rank knows.
    """
    found = {
        propagator(number, step): states[level.bounds[step - 1]]
        for number, level in enumerate(levels, start=1)
        for step in range(1, level.steps + 1)
    }
    newest = {task.applied: task.reads[0] for task in tasks if task.target in found}
    found |= newest
    if method.storage == "points":
        for step, bound in enumerate(levels[1].bounds[:-1], start=1):
            fine, coarse = Target.fine(bound + 1), propagator(2, step)
            found[fine] = newest.get(coarse, found[fine])
    return found


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
