"""Multigrid: solve for the states of a network, and for their adjoints, by cycles."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, final

import torch
from torch import Tensor

from pararealize.errors import DivergenceWarning
from pararealize.ir.levels import Cycles, Iteration
from pararealize.ir.schedule import Schedule, Task, Watch
from pararealize.runtime.combine import combine
from pararealize.runtime.masks import Masks, random_states
from pararealize.runtime.nest import Structure, leaves_of, unflatten
from pararealize.runtime.quiet import Statistics
from pararealize.runtime.report import Jump, norms
from pararealize.runtime.tape import Tape, detached, stack_weights
from pararealize.runtime.watchful import judge


class Applied(Protocol):
    """What a task applies."""

    masks: Masks | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that it reads besides the state."""

    @property
    def moving(self) -> Sequence[Any]:
        """Modules in which an evaluation may move something, in the network's mode."""

    def weights(self) -> Iterable[Tensor]:
        """Tensors of the network that it reads."""

    def __call__(self, *values: Any, commits: bool = True) -> Any:
        """The next state."""


class Stack(Protocol):
    """Propagators of equal structure, which can be applied at once."""

    @property
    def places(self) -> Mapping[str, int]:
        """Their names, numbered."""

    def weights(self, names: Sequence[str]) -> Sequence[tuple[Tensor, ...]]:
        """For every weight, those of some of them."""

    def __call__(
        self, weights: Sequence[Tensor], states: Tensor, features: Sequence[Tensor] = ()
    ) -> Tensor:
        """The next states."""


class Post(Protocol):
    """How one rank's tasks reach the others."""

    def send(self, task: Task, value: Any) -> None:
        """Send a state to the rank ``task.peer``."""

    def receive(self, task: Task) -> Any:
        """The state that the rank ``task.peer`` sends."""

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """Numbers, each of which one rank knows and the others hold to be zero, on all ranks."""

    def enter(self, value: str) -> None:
        """A propagator begins for the first time in a step, and may draw random numbers."""

    def leave(self, value: str) -> None:
        """It has ended."""

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which the task is recorded."""


@dataclass(frozen=True)
class Autocast:
    """Whether a call runs in mixed precision, for what its backward pass evaluates again."""

    device: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def now(cls, inputs: Mapping[str, Any]) -> Autocast:
        """The mode at this point of the program, on the device of the inputs."""
        found = (v.device.type for v in leaves_of(dict(inputs)) if isinstance(v, Tensor))
        device = next(found, "cpu")
        return cls(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

    def again(self) -> torch.autocast:
        """A block in that mode."""
        return torch.autocast(self.device, self.dtype, self.enabled)


@dataclass(frozen=True)
class Body:
    """What some ranks run of a schedule: its tasks without the head and what delivers the output.

    ``watches`` come with the rank that reports them.
    """

    tasks: tuple[Task, ...]
    watches: tuple[tuple[Watch, int], ...]


@dataclass
class Solved:
    """One call: its values on this rank, and what its adjoints need."""

    cycles: Cycles
    post: Post
    inputs: Mapping[str, Any]
    values: dict[tuple[int, str], Any]
    tape: Tape
    autocast: Autocast
    masks: list[tuple[Masks, Any]] = field(default_factory=list)
    residuals: tuple[Jump, ...] = ()
    structure: Structure | None = None


@dataclass
class Tally:
    """How the calls so far went; counts are of training and inference together."""

    calls: int = 0
    extra_cycles: int = 0
    serial: int = 0
    backward_cycles: int = 0
    adjoints: tuple[Jump, ...] = ()


@final
class Multigrid:
    """One rank's solver.

    Args:
        iteration: schedules, placed.
        propagators: those that this rank's tasks apply.
        ranks: whose tasks it runs: this rank's, or all in one process.
        move: brings a value to the device of a rank, in one process.
        stacks: propagators that are applied at once.

    """

    def __init__(
        self,
        iteration: Iteration,
        propagators: Mapping[str, Applied],
        ranks: Sequence[int],
        move: Callable[[int, Any], Any],
        stacks: Sequence[Stack] = (),
    ) -> None:
        self.stacks = {name: stack for stack in stacks for name in stack.places}
        self.iteration, self.method = iteration, iteration.method
        self.propagators, self._ranks, self.move = propagators, frozenset(ranks), move
        self._previous: dict[Any, Any] = {}
        self.residuals: tuple[Jump, ...] = ()
        every = (*iteration.forward, *iteration.warm, *iteration.adjoint)
        self._bodies = {id(c): body(c.schedule, self._ranks) for c in every}
        self.tally = Tally(backward_cycles=iteration.method.backward_cycles)

    def solve(self, inputs: Mapping[str, Any], post: Post, *, learns: bool) -> Solved:
        """The states of the network, in as many cycles as it takes.

        With ``learns``, what adjoints need is kept.
        """
        options, values = self._start(inputs)
        solved = Solved(options[0], post, inputs, values, Tape(), Autocast.now(inputs))
        run = _Run(self, solved, learns)
        self._begin_masks(inputs)
        with torch.no_grad():
            for chosen in options:
                solved.cycles = chosen
                run.forward(chosen)
                if self._is_enough(solved, chosen, options, "states"):
                    break
            if learns:
                run.linearise()
        self._previous, self.residuals = self._guesses(solved), solved.residuals
        self.tally.calls += 1
        return solved

    def depends_on(self, solved: Solved) -> list[Tensor]:
        """Weights that the states depend on, and inputs, where they want a gradient."""
        stacked = {place[0] for place in solved.tape.batches}
        batches = {id(batch): batch for batch in solved.tape.batches.values()}.values()
        found: list[Any] = [t for batch in batches for _, own in batch.weights for t in own]
        for name, part in self.propagators.items():
            if name.startswith(("fine.", "inputs.")) and name not in stacked:
                found += part.weights()
        found += leaves_of(dict(solved.inputs))
        wanted = (t for t in found if isinstance(t, Tensor) and t.requires_grad)
        return list({id(tensor): tensor for tensor in wanted}.values())

    def _begin_masks(self, inputs: Mapping[str, Any]) -> None:
        """Coarse masks are those of the step's start, whenever the first cycle needs them."""
        start = dict(random_states(dict(inputs)))
        for mask in (part.masks for part in self.propagators.values()):
            if mask is not None and mask.own_stream:
                mask.start = start

    def reported(self) -> tuple[Any, ...]:
        """Residuals of the last call and backward pass, and how all calls went."""
        tally = self.tally
        counts = (tally.calls, tally.extra_cycles, tally.serial, tally.backward_cycles)
        return (self.residuals, tally.adjoints, *counts)

    def _start(self, inputs: Mapping[str, Any]) -> tuple[Sequence[Cycles], dict[Any, Any]]:
        """The schedules to go through, and the values that they start from."""
        like = _shapes(inputs)
        if not self.iteration.warm or self._previous.get("like") != like:
            return self.iteration.forward, {}
        known = {key: value for key, value in self._previous.items() if key != "like"}
        return self.iteration.warm, dict(known)

    def _guesses(self, solved: Solved) -> dict[Any, Any]:
        """The newest states that coarse propagators step from, as guesses for the next call."""
        if self.method.guess != "previous":
            return {}
        found: dict[Any, Any] = {"like": _shapes(solved.inputs)}
        level = self.iteration.levels[1]
        for step, bound in enumerate(level.bounds[1:-1], start=2):
            name = solved.cycles.linearised[f"coarse.{step}"]
            for rank in self._ranks:
                if (rank, name) in solved.values:
                    found[rank, f"p{bound}"] = solved.values[rank, name]
        return found

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """All that may run in a call and its backward pass."""
        solved = self.iteration
        return tuple(c.schedule for c in (*solved.forward, *solved.warm, *solved.adjoint))

    def body(self, cycles: Cycles) -> Body:
        """What this rank runs of a schedule."""
        return self._bodies[id(cycles)]

    def _is_enough(
        self, solved: Solved, chosen: Cycles, options: Sequence[Cycles], what: str
    ) -> bool:
        """Whether to stop after these cycles; all ranks decide alike."""
        alike = what == "adjoints"
        body = self.body(chosen)
        jumps = residuals(body, solved.values, solved.post, self._ranks, alike=alike)
        tolerance = self.method.tolerance
        if what == "states":
            solved.residuals = jumps
        else:
            self.tally.adjoints = jumps
        if chosen is options[-1]:
            return True
        verdict = judge(self.method, _by_cycle(jumps), tolerance)
        if verdict.enough:
            return True
        following = options[options.index(chosen) + 1]
        self.tally.extra_cycles += 1
        if following is not options[-1]:
            return False
        self.tally.serial += 1
        if self.tally.serial == 1:
            warnings.warn(
                DivergenceWarning(
                    f"MGRIT did not converge for the {what} in {chosen.count} cycles "
                    f"({verdict.reason}): this step is run serially. print(net.report) shows the "
                    "residuals and how often this happened; try another coarse=, or more cycles."
                ),
                stacklevel=2,
            )
        return False

    def transpose(
        self, solved: Solved, adjoint: list[Any], others: Sequence[Tensor], *, retain: bool
    ) -> list[Tensor | None]:
        """Gradients of weights and inputs, ``others``, from the adjoint of the last state.

        It comes as leaves; on ranks that have not that state there are none.
        """
        start = (self._last_rank(), f"λ{self.iteration.levels[0].bounds[-1]}")
        options = [c for c in self.iteration.adjoint if c.count >= self.tally.backward_cycles]
        options = options or list(self.iteration.adjoint[-1:])
        values = dict(solved.values)
        if solved.structure is not None and adjoint:
            values[start] = unflatten(adjoint, solved.structure)
        run = _Backward(self, solved, values, others, retain=retain)
        with torch.no_grad(), solved.autocast.again():
            for chosen in options:
                run.backward(chosen)
                if self._is_enough(run.view(), chosen, options, "adjoints"):
                    break
        self._watch_bias()
        return run.gradients

    def _watch_bias(self) -> None:
        """One more cycle from the next step on where the last adjoint residual is too large."""
        bound, most = self.method.bias_bound, self.iteration.adjoint[-1].count
        largest = _by_cycle(self.tally.adjoints)[-1:]
        if bound is not None and largest and largest[0] > bound:
            self.tally.backward_cycles = min(self.tally.backward_cycles + 1, most)

    def _last_rank(self) -> int:
        last = self.iteration.forward[0].schedule
        return next(t.rank for t in reversed(last.tasks) if t.op in {"apply", "combine"})


class _Run:
    """Runs schedules of states one after another; what is known is not computed again."""

    def __init__(self, solver: Multigrid, solved: Solved, learns: bool) -> None:
        self.solver, self.solved, self.learns = solver, solved, learns
        self.statistics: dict[str, Statistics] = {}
        self.weights: dict[tuple[str, ...], list[tuple[Tensor, tuple[Tensor, ...]]]] = {}
        self.entered: set[str] = set()

    def forward(self, cycles: Cycles) -> None:
        """The tasks of a schedule, but for its head and what delivers the output."""
        values, post = self.solved.values, self.solved.post
        if self.learns:
            self.solved.tape.keep(cycles.linearised)
        tasks = self.solver.body(cycles).tasks
        for i, task in enumerate(tasks):
            if (task.rank, task.value) not in values and task.propagator in self.solver.stacks:
                self._apply_batch(together(tasks, i, values, self.solver.stacks), cycles)
            if (task.rank, task.value) not in values:
                with post.noted(task):
                    carry_out(task, values, post, lambda task: self._apply(task, cycles))

    def _apply(self, task: Task, cycles: Cycles) -> Any:
        keep = self.learns and self.solver.method.storage != "points"
        place = (task.propagator, task.reads[0])
        if task.propagator.startswith("inputs."):
            return self._see(task)
        if task.commits and task.propagator.startswith("fine."):
            self._restore(task.propagator)
        record = keep and cycles.linearised.get(place[0]) == place[1]
        if task.propagator in self.entered:
            return self.evaluate(task.rank, place, record=record, commits=task.commits)
        self.entered.add(task.propagator)
        self.solved.post.enter(task.propagator)
        try:
            return self.evaluate(task.rank, place, record=record, commits=task.commits)
        finally:
            self.solved.post.leave(task.propagator)

    def _apply_batch(self, tasks: Sequence[Task], cycles: Cycles) -> None:
        """Several slices at once; what is not linearised there alone is evaluated alone."""
        if len(tasks) < 2:
            return
        values, tape = self.solved.values, self.solved.tape
        stack, names = self.solver.stacks[tasks[0].propagator], [t.propagator for t in tasks]
        states = [values[task.rank, task.reads[0]] for task in tasks]
        places = [(task.propagator, task.reads[0]) for task in tasks]
        features = self._stacked_features(tasks)
        if features is None:
            return
        keep = self.learns and self.solver.method.storage != "points"
        kept = {cycles.linearised.get(name) == at for name, at in places}
        if keep and True in kept:
            evaluate = partial(stack, features=features)
            results = tape.record_batch(places, evaluate, states, self._stacked(names))
        else:
            results = stack([w for w, _ in self._stacked(names)], torch.stack(states), features)
        for task, result in zip(tasks, results.unbind(0), strict=True):
            values[task.rank, task.value] = result

    def _stacked_features(self, tasks: Sequence[Task]) -> list[Tensor] | None:
        """What the slices see, stacked; ``None`` where gradients have to go through it."""
        rows = [self._features(task.rank, task.propagator, record=True) for task in tasks]
        if any(f.requires_grad for row in rows for f in row):
            return None
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _features(self, rank: int, name: str, *, record: bool) -> list[Tensor]:
        """What a propagator sees besides the state, with autograd's graph or without."""
        found: list[Tensor] = []
        for value in self.solver.iteration.features.get(name, ()):
            kept = self.solved.tape.features.get(value) if record else None
            found += self.solved.values[rank, value] if kept is None else kept
        return found

    def _see(self, task: Task) -> tuple[Tensor, ...]:
        """Evaluate what a slice sees, once a call."""
        part, tape = self.solver.propagators[task.propagator], self.solved.tape
        inputs = [self.solver.move(task.rank, self.solved.inputs[name]) for name in part.inputs]
        with torch.set_grad_enabled(self.learns and self.solver.method.storage != "points"):
            made = part(*inputs, commits=task.commits)
        found = made if isinstance(made, tuple) else (made,)
        if self.learns and self.solver.method.storage != "points":
            tape.features[task.value] = found
        return tuple(f.detach() for f in found)

    def _stacked(self, names: Sequence[str]) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Weights of some slices, stacked once a call, and those that they are made of."""
        key = tuple(names)
        if key not in self.weights:
            own = self.solver.stacks[names[0]].weights(names)
            self.weights[key] = [(stack_weights(column), column) for column in own]
        return [(stacked.detach(), column) for stacked, column in self.weights[key]]

    def _restore(self, name: str) -> None:
        """Statistics move once a step: those that an earlier cycle moved are moved back."""
        if name in self.statistics:
            self.statistics[name].restore()
        elif self.solver.iteration.forward[0] is not self.solver.iteration.forward[-1]:
            self.statistics[name] = Statistics(self.solver.propagators[name].moving)

    def evaluate(self, rank: int, place: tuple[str, str], *, record: bool, commits: bool) -> Any:
        """A propagator at a value, with autograd's graph or without."""
        part, solved = self.solver.propagators[place[0]], self.solved
        inputs = [self.solver.move(rank, solved.inputs[name]) for name in part.inputs]
        state = solved.values.get((rank, place[1]))

        def evaluate(*values: Any) -> Any:
            return part(*values, commits=commits)

        inputs = [*self._features(rank, place[0], record=record), *inputs]
        if record:
            return solved.tape.record(place, evaluate, state, inputs)
        return detached(evaluate(*inputs) if state is None else evaluate(state, *inputs))

    def see_again(self, rank: int, name: str) -> None:
        """Evaluate what a propagator sees with autograd's graph, where that was not kept."""
        for value in self.solver.iteration.features.get(name, ()):
            if value not in self.solved.tape.features:
                part = self.solver.propagators[f"inputs.{value[1:].partition('.')[0]}"]
                given = [self.solver.move(rank, self.solved.inputs[n]) for n in part.inputs]
                with torch.enable_grad():
                    made = part(*given, commits=False)
                found = made if isinstance(made, tuple) else (made,)
                self.solved.tape.features[value] = found

    def linearise(self) -> None:
        """Applications that adjoints need and the states did not; what masks were drawn."""
        solved, solver = self.solved, self.solver
        if solver.method.storage != "points":
            for rank, place in needed(solver, solved.cycles):
                if place not in solved.tape.records and place not in solved.tape.batches:
                    self.evaluate(rank, place, record=True, commits=False)
        masks = (p.masks for p in solver.propagators.values() if p.masks is not None)
        solved.masks = [(mask, mask.states) for mask in masks]


class _Backward:
    """Runs schedules of adjoints one after another."""

    def __init__(
        self,
        solver: Multigrid,
        solved: Solved,
        values: dict[tuple[int, str], Any],
        others: Sequence[Tensor],
        *,
        retain: bool,
    ) -> None:
        self.solver, self.solved, self.values = solver, solved, values
        self.others, self.retain = tuple(others), retain
        self.gradients: list[Tensor | None] = []
        self.done: set[str] = set()

    def view(self) -> Solved:
        """The call with the values of its adjoints."""
        s = self.solved
        return Solved(s.cycles, s.post, s.inputs, self.values, s.tape, s.autocast)

    def backward(self, cycles: Cycles) -> None:
        """The tasks of a schedule; gradients of weights are those of the last one."""
        post = self.solved.post
        self.done = set()
        self.gradients = [None] * len(self.others)
        tasks = self.solver.body(cycles).tasks
        for i, task in enumerate(tasks):
            if self._place(task) in self.solved.tape.batches:
                self._apply_batch(tasks[i:])
            known = (task.rank, task.value) in self.values
            if not known or (task.op == "apply" and task.commits and task.value not in self.done):
                with post.noted(task):
                    carry_out(task, self.values, post, self._apply)

    def _apply(self, task: Task) -> Any:
        tape, place = self.solved.tape, self._place(task)
        if place not in tape.records:
            self._evaluate(task.rank, place)
        indices = self._own(task.propagator) if task.commits else []
        others = [self.others[i] for i in indices]
        adjoint = self.values[task.rank, task.reads[0]]
        retain = self.retain or not task.commits
        found, gradients = tape.transpose(place, adjoint, others, retain=retain)
        for i, gradient in zip(indices, gradients, strict=True):
            self.gradients[i] = _added(self.gradients[i], gradient)
        if not retain:
            del tape.records[place]
        return found

    def _apply_batch(self, tasks: Sequence[Task]) -> None:
        """The adjoints of slices that were advanced at once."""
        tape, first = self.solved.tape, tasks[0]
        batch = tape.batches[self._place(first)]
        ready = {
            self._place(task): task
            for task in tasks
            if task.op == "apply"
            and task.commits == first.commits
            and task.value not in self.done
            and (task.rank, task.reads[0]) in self.values
            and tape.batches.get(self._place(task)) is batch
            and (task.commits or (task.rank, task.value) not in self.values)
        }
        if not ready:
            return
        adjoints = {p: self.values[t.rank, t.reads[0]] for p, t in ready.items()}
        retain = self.retain or not first.commits or len(ready) < len(batch.places)
        found, gradients = batch.transpose(adjoints, weights=first.commits, retain=retain)
        for place, task in ready.items():
            self.values[task.rank, task.value] = found[place]
            self.done.add(task.value)
            if not retain:
                del tape.batches[place]
        for i, other in enumerate(self.others):
            self.gradients[i] = _added(self.gradients[i], gradients.get(id(other)))

    def _own(self, name: str) -> list[int]:
        """Which of the tensors a propagator reads: its weights, and inputs."""
        seen = name.replace("fine.", "inputs.")
        parts = [p for p in map(self.solver.propagators.get, (name, seen)) if p is not None]
        read = {id(tensor) for part in parts for tensor in part.weights()}
        inputs = [self.solved.inputs[name] for part in parts for name in part.inputs]
        read |= {id(leaf) for leaf in leaves_of(inputs)}
        return [i for i, tensor in enumerate(self.others) if id(tensor) in read]

    def _place(self, task: Task) -> tuple[str, str]:
        return task.propagator, self.solved.cycles.linearised.get(task.propagator, "")

    def _evaluate(self, rank: int, place: tuple[str, str]) -> None:
        """Again from the stored state, with the masks of its step."""
        now = [(mask, mask.states) for mask, _ in self.solved.masks]
        for mask, states in self.solved.masks:
            mask.states = states
        run = _Run(self.solver, self.solved, learns=True)
        run.see_again(rank, place[0])
        run.evaluate(rank, place, record=True, commits=False)
        for mask, states in now:
            mask.states = states


def carry_out(
    task: Task,
    values: dict[tuple[int, str], Any],
    post: Post,
    apply: Callable[[Task], Any],
) -> None:
    """Run one task; its value is known from then on."""
    key = (task.rank, task.value)
    match task.op:
        case "apply":
            values[key] = apply(task)
        case "combine":
            values[key] = combine(task.signs, *(values[task.rank, name] for name in task.reads))
        case "send":
            post.send(task, values[task.rank, task.reads[0]])
            values[key] = None
        case "recv":
            values[key] = post.receive(task)


def together(
    tasks: Sequence[Task],
    first: int,
    values: Mapping[tuple[int, str], Any],
    stacks: Mapping[str, Stack],
) -> list[Task]:
    """The applications of a stack's propagators that can begin with the first one."""
    stack, rank = stacks[tasks[first].propagator], tasks[first].rank
    found: dict[str, Task] = {}
    for task in tasks[first:]:
        known = all((rank, name) in values for name in task.reads)
        ready = task.op == "apply" and known and task.rank == rank
        fresh = (rank, task.value) not in values and task.propagator not in found
        if ready and fresh and stacks.get(task.propagator) is stack:
            found[task.propagator] = task
    return sorted(found.values(), key=lambda task: stack.places[task.propagator])


def needed(solver: Multigrid, cycles: Cycles) -> list[tuple[int, tuple[str, str]]]:
    """Where this rank's adjoints are linearised."""
    tasks = solver.body(solver.iteration.adjoint[0]).tasks
    applied = {(t.rank, t.propagator): None for t in tasks if t.op == "apply"}
    return [(rank, (name, cycles.linearised[name])) for rank, name in applied]


def body(schedule: Schedule, ranks: frozenset[int]) -> Body:
    """What some ranks run of a schedule."""
    mine = (task for task in schedule if task.rank in ranks)
    tasks = tuple(task for task in mine if not is_end(schedule, task))
    return Body(tasks, tuple((watch, reporter(schedule, watch)) for watch in schedule.watches))


def is_end(schedule: Schedule, task: Task) -> bool:
    """Whether a task is the head, or delivers the output."""
    delivers = task.op == "send" and task.reads[0] == schedule.output
    arrives = task.op == "recv" and task.value == schedule.output
    return task.propagator == "head" or delivers or arrives


def residuals(
    body: Body,
    values: Mapping[tuple[int, str], Any],
    post: Post,
    ranks: frozenset[int],
    *,
    alike: bool,
) -> tuple[Jump, ...]:
    """The residual of every watched equation, its norm also relative to the state.

    Or ``alike`` to the largest of all: adjoints may vanish on the way, and add nothing to the
    gradient where they do.
    """
    mine = [i for i, (_, rank) in enumerate(body.watches) if rank in ranks]
    pairs = [(values[r, w.new], values[r, w.old]) for w, r in (body.watches[i] for i in mine)]
    found = norms([combine("+-", new, old) for new, old in pairs] + [new for new, _ in pairs])
    numbers = [0.0] * (2 * len(body.watches))
    for k, i in enumerate(mine):
        numbers[2 * i], numbers[2 * i + 1] = found[k], found[k + len(mine)]
    agreed = post.agree(numbers)
    scales = agreed[1::2]
    if alike:
        scales = [max(scales, default=0.0)] * len(scales)
    sizes = zip(agreed[::2], scales, strict=True)
    return tuple(
        Jump(watch.sweep, watch.interface, size, size / scale if scale else 0.0, watch.level)
        for (watch, _), (size, scale) in zip(body.watches, sizes, strict=True)
    )


def reporter(schedule: Schedule, watch: Watch) -> int:
    """The last rank that knows both values."""
    known = {(task.value, task.rank) for task in schedule if task.op != "send"}
    ranks = range(schedule.ranks)
    known |= {(name, rank) for name in schedule.inputs for rank in ranks}
    return max((r for r in ranks if {(watch.new, r), (watch.old, r)} <= known), default=-1)


def _by_cycle(jumps: Sequence[Jump]) -> list[float]:
    """The largest relative residual of level 1 in every cycle."""
    found: dict[int, float] = {}
    for jump in jumps:
        if jump.level == 1:
            worst = found.get(jump.sweep, 0.0)
            bad = math.isnan(jump.relative) or math.isnan(worst)
            found[jump.sweep] = math.nan if bad else max(worst, jump.relative)
    return [found[sweep] for sweep in sorted(found)]


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _shapes(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, tuple(value.shape), value.dtype)
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    )
