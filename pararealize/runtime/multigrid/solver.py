"""Solver: the states of a network, and their adjoints, by cycles of multigrid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from pararealize.errors import DivergenceWarning
from pararealize.ir.hierarchy import Cycles, Iteration
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import Key
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.stacked import Stacked
from pararealize.runtime.communication.lanes import Lanes
from pararealize.runtime.effects.lock import Lock
from pararealize.runtime.effects.masks import random_states
from pararealize.runtime.monitoring.report import Jump, Report
from pararealize.runtime.multigrid.adjoints import Adjoints
from pararealize.runtime.multigrid.convergence import by_cycle, doubt, residuals
from pararealize.runtime.multigrid.local_tasks import Messages, local_tasks
from pararealize.runtime.multigrid.solve import Solve, SolverSetup, autocast_now
from pararealize.runtime.multigrid.states import States
from pararealize.runtime.multigrid.tape import Tape
from pararealize.runtime.values.pytree import tensors_of, unflatten


@dataclass
class Tally:
    """How the calls so far went; counts are of training and inference together."""

    calls: int = 0
    extra_cycles: int = 0
    serial_steps: int = 0
    backward_cycles: int = 0
    adjoints: tuple[Jump, ...] = ()
    unwatched: bool = False


@final
class MultigridSolver:
    """The solver of one rank, or of all in one process; :class:`SolverSetup` says what it takes."""

    def __init__(
        self,
        iteration: Iteration,
        propagators: Mapping[Target, Propagator],
        ranks: Sequence[int],
        move: Callable[[int, Any], Any],
        stacks: Sequence[Stacked] = (),
    ) -> None:
        here = frozenset(ranks)
        every = (*iteration.forward, *iteration.warm, *iteration.adjoint)
        self.setting = SolverSetup(
            iteration,
            propagators,
            here,
            move,
            stacks={target: stack for stack in stacks for target in stack.positions},
            tasks={id(cycles): local_tasks(cycles.schedule, here) for cycles in every},
        )
        self._previous: tuple[Any, dict[Key, Any]] = (None, {})
        self.residuals: tuple[Jump, ...] = ()
        self.tally = Tally(backward_cycles=iteration.method.backward_cycles)
        self._is_fixed = False
        self._lanes: Lanes | None = None
        self._lock = Lock()  # backward passes run outside of a network's call

    @contextmanager
    def fixed(self, lanes: Lanes | None = None) -> Iterator[None]:
        """Take the cycles asked for in the block, and look at no residual.

        Subnetworks that share nothing run on several ``lanes``, where there are some.
        """
        before = self._lanes
        self._is_fixed = True
        if lanes is not None and self.setting.shares_nothing:
            self._lanes = lanes
        try:
            yield
        finally:
            self._is_fixed, self._lanes = False, before

    def forget(self) -> None:
        """Start the next call as the first one."""
        self._previous = (None, {})
        self.tally.backward_cycles = self.setting.iteration.method.backward_cycles

    def solve(self, inputs: Mapping[str, Any], messages: Messages, *, learns: bool) -> Solve:
        """The states of the network, in as many cycles as it takes.

        With ``learns``, what adjoints need is kept.
        """
        with self._lock:
            return self._solve(inputs, messages, learns=learns)

    def _solve(self, inputs: Mapping[str, Any], messages: Messages, *, learns: bool) -> Solve:
        options, values = self._start(inputs)
        autocast = autocast_now(inputs)
        solved = Solve(options[0], messages, inputs, values, Tape(), autocast, lanes=self._lanes)
        run = States(self.setting, solved, learns)
        self._begin_masks(inputs)
        with torch.no_grad():
            for chosen in options:
                solved.cycles = chosen
                with solved.forked():
                    run.forward(chosen)
                if self._is_enough(solved, chosen, options, "states"):
                    break
            if learns:
                run.linearise()
        self._previous, self.residuals = self._guesses(solved), solved.residuals
        self.tally.calls += 1
        return solved

    def depends_on(self, solved: Solve) -> list[Tensor]:
        """Weights that the states depend on, and inputs, where they want a gradient."""
        stacked = {place[0] for place in solved.tape.batches}
        batches = {id(batch): batch for batch in solved.tape.batches.values()}.values()
        found = [own for batch in batches for _, own in batch.weights]
        leads = (self.setting.stacks[target].leads.get(target) for target in stacked)
        found += (weight for lead in leads if lead is not None for weight in lead.weights())
        for target, part in self.setting.propagators.items():
            if target.is_slice and target not in stacked:
                found += part.weights()
        found += tensors_of(dict(solved.inputs))
        return list({id(tensor): tensor for tensor in found if tensor.requires_grad}.values())

    def _begin_masks(self, inputs: Mapping[str, Any]) -> None:
        """Coarse masks are those of the step's start, whenever the first cycle needs them."""
        every = (part.masks for part in self.setting.propagators.values())
        own = [mask for mask in every if mask is not None and mask.own_stream]
        start = dict(random_states(dict(inputs))) if own else {}
        for mask in own:
            mask.start = start

    def report(self) -> Report:
        """Residuals of the last call and backward pass, and how all calls went."""
        return Report(self.residuals, **vars(self.tally))

    def _start(self, inputs: Mapping[str, Any]) -> tuple[Sequence[Cycles], dict[Key, Any]]:
        """The schedules to go through, and the values that they start from."""
        iteration, (shapes, known) = self.setting.iteration, self._previous
        if not iteration.warm or shapes != _shapes(inputs):
            return iteration.forward, {}
        return iteration.warm, dict(known)

    def _guesses(self, solved: Solve) -> tuple[Any, dict[Key, Any]]:
        """Shapes of inputs, and the newest states that coarse propagators step from.

        They are guesses for the next call.
        """
        if self.setting.iteration.method.guess != "previous":
            return None, {}
        newest = solved.cycles.linearised
        return _shapes(solved.inputs), {
            (rank, guess): solved.values[rank, newest[target]]
            for target, guess in self.setting.iteration.guesses.items()
            for rank in self.setting.ranks
            if (rank, newest[target]) in solved.values
        }

    @property
    def is_serial(self) -> bool:
        """Whether there is nothing to solve for: one schedule each, with no residual to watch."""
        solved = self.setting.iteration
        single = len(solved.forward) == len(solved.adjoint) == 1 and not solved.warm
        plain = not solved.features and not solved.forward[0].schedule.watches
        return single and plain and self.setting.keeps

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """All that may run in a call and its backward pass."""
        solved = self.setting.iteration
        return tuple(c.schedule for c in (*solved.forward, *solved.warm, *solved.adjoint))

    def _is_enough(
        self, solved: Solve, chosen: Cycles, options: Sequence[Cycles], what: str
    ) -> bool:
        """Whether to stop after these cycles; all ranks decide alike."""
        if self._is_fixed:
            self.tally.adjoints, self.tally.unwatched = (), True
            return True
        alike, self.tally.unwatched = what == "adjoints", False
        jumps = residuals(self.setting, solved, chosen, alike=alike)
        if what == "states":
            solved.residuals = jumps
        else:
            self.tally.adjoints = jumps
        if chosen is options[-1]:
            return True
        reason = doubt(self.setting.iteration.method, by_cycle(jumps))
        if not reason:
            return True
        following = options[options.index(chosen) + 1]
        self.tally.extra_cycles += 1
        if following is not options[-1]:
            return False
        self.tally.serial_steps += 1
        if self.tally.serial_steps == 1:
            warnings.warn(
                DivergenceWarning(
                    f"MGRIT did not converge for the {what} in {chosen.count} cycles "
                    f"({reason}): this step is run serially. print(net.report) shows the "
                    "residuals and how often this happened; try another coarse=, or more cycles."
                ),
                stacklevel=2,
            )
        return False

    def transpose(
        self, solved: Solve, adjoint: list[Any], others: Sequence[Tensor], *, retain: bool
    ) -> list[Tensor | None]:
        """Gradients of weights and inputs, ``others``, from the adjoint of the last state.

        It comes as leaves; on ranks that have not that state there are none.
        """
        with self._lock:
            return self._transpose(solved, adjoint, others, retain=retain)

    def _transpose(
        self, solved: Solve, adjoint: list[Any], others: Sequence[Tensor], *, retain: bool
    ) -> list[Tensor | None]:
        iteration, least = self.setting.iteration, self.tally.backward_cycles
        every, tasks = iteration.adjoint, reversed(iteration.forward[0].schedule.tasks)
        last = next(task.rank for task in tasks if task.op in {"apply", "combine"})
        options = [cycles for cycles in every if cycles.count >= least] or every[-1:]
        solved = replace(solved, values=dict(solved.values))
        if solved.structure is not None and adjoint:
            solved.values[last, iteration.last_adjoint] = unflatten(adjoint, solved.structure)
        run = Adjoints(self.setting, solved, others, retain=retain)
        with torch.no_grad(), solved.autocast():
            for chosen in options:
                with solved.forked():
                    run.backward(chosen)
                if self._is_enough(solved, chosen, options, "adjoints"):
                    break
        self._watch_bias()
        return run.gradients

    def _watch_bias(self) -> None:
        """One more cycle from the next step on where the last adjoint residual is too large."""
        iteration = self.setting.iteration
        bound, most = iteration.method.bias_bound, iteration.adjoint[-1].count
        largest = by_cycle(self.tally.adjoints)[-1:]
        if bound is not None and largest and largest[0] > bound:
            self.tally.backward_cycles = min(self.tally.backward_cycles + 1, most)


def _shapes(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, tuple(value.shape), value.dtype)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    )
