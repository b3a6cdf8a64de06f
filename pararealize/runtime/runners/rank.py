"""Rank: run one rank's tasks of a placed schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from pararealize.errors import DisagreementError, PeerError
from pararealize.ir.schedule import Schedule, Watch
from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.runtime.communication.autograd import arrive, depart, enter, leave
from pararealize.runtime.communication.endpoint import Call, Endpoint, Message
from pararealize.runtime.communication.random_streams import Draw, RandomStreams
from pararealize.runtime.communication.tied_parameters import Tie, Ties
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.monitoring.jumps import Jumps, Watched, number_of, summed
from pararealize.runtime.monitoring.measures import Measure, batch_of, measures, shared, tables
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.multigrid.local_tasks import is_end
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.adaptive import SweepControl, SweepRecord, detached
from pararealize.runtime.runners.multigrid import attach, last_state
from pararealize.runtime.runners.rank_stages import RankStage, messages_of, rank_stages
from pararealize.runtime.values.checks import shapes
from pararealize.runtime.values.combine import combine, cut, join
from pararealize.runtime.values.pytree import flatten, leaves_of, map_tensors, unflatten

#: Shares of a sum over ranks, whose states may have other types on each.
WIDE = torch.float64


class RankApplied(Protocol):
    """What a task applies."""

    label: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that it reads besides the state."""

    def __call__(self, *values: Any, commits: bool = True) -> Any:
        """The next state."""


@final
class RankMessages:
    """Messages of a multigrid solve: plain states, whose adjoints are solved for."""

    def __init__(self, execution: RankRunner, step: Call) -> None:
        self._execution, self._step = execution, step

    def send(self, task: Task, value: Any) -> None:
        """Send a state to the rank ``task.peer``."""
        self._step.send(self._execution.message(task.reads[0], task.rank, task.peer), value)

    def receive(self, task: Task) -> Any:
        """Wait for the state that the rank ``task.peer`` sends."""
        line = self._execution.message(task.value, task.peer, task.rank)
        return self._step.expect(line).fill(self._step.take(line))

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """The numbers of all ranks."""
        if not numbers:
            return []
        mine = torch.tensor(numbers, dtype=torch.float64)
        return [float(number) for number in self._execution.transport.sum(mine)]

    def enter(self, target: Target) -> None:
        """A propagator begins that may draw random numbers: from its place in the stream."""
        self._execution.streams.enter(target)

    def leave(self, target: Target) -> None:
        """It has ended."""
        self._execution.streams.leave(target)

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which the task is recorded; in a backward pass, the next place in it."""
        link = self._step.link
        if not link.is_open:
            return self._execution.noted(task)
        link.at(str(task), task.op)
        return nullcontext()


@final
class RankRunner:
    """One rank's part of a network: (network inputs) → (output, watched values).

    Args:
        schedule: the whole placed schedule.
        propagators: those that this rank's tasks apply.
        bind: turns the arguments of a call into the network's inputs.
        draws: tasks of all ranks that draw random numbers.
        transport: to the other ranks.
        network: the module that holds this rank's parameters, and its mode.
        ties: parameters that other ranks hold as well.
        solver: for multigrid, what finds the last state; the schedule is the first it runs.
        dial: what may follow the schedule, and what decides whether it does.

    """

    def __init__(
        self,
        schedule: Schedule,
        propagators: Mapping[Target, RankApplied],
        bind: Callable[..., dict[str, Any]],
        draws: tuple[Draw, ...],
        transport: Transport,
        network: nn.Module,
        ties: tuple[Tie, ...] = (),
        solver: MultigridSolver | None = None,
        dial: SweepControl | None = None,
    ) -> None:
        self.solver, self._dial = solver, dial
        self.schedule, self.transport, self.rank = schedule, transport, transport.rank
        stages = (schedule, *(dial.later if dial is not None else ()))
        self._legs = rank_stages(stages, self.rank)
        self.tasks = tuple(task for leg in self._legs for task in leg.tasks)
        self.swept = SweepRecord() if dial is not None else None
        self._propagators, self._bind, self._network = propagators, bind, network
        self._streams = RandomStreams(draws, transport)
        self._lines = messages_of(*stages) if solver is None else messages_of(*solver.schedules)
        self._makes_output = any(t.value == schedule.output and t.op != "recv" for t in self.tasks)
        self._link = Endpoint(transport, self._certain())
        self._link.ties = Ties(ties, network, transport) if ties else None

    def _certain(self) -> list[Message]:
        """Messages from or to this rank that every call takes."""
        if self.solver is not None and self.solver.setting.iteration.warm:
            return []
        certain = messages_of(self.schedule)
        return [self._lines[key] for key in certain if self.rank in key[1:]]

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[tuple[Any, Any], ...]]:
        """The network's output, the same on every rank, and the jumps seen here."""
        return self.watching(None, *args, **kwargs)

    def watching(self, jumps: Jumps | None, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """The same, with the penalty of all ranks' jumps kept where that is asked for."""
        inputs = self._bind(*args, **kwargs)
        trainable = any(p.requires_grad for p in self._network.parameters())
        training, asked = self._network.training, jumps is not None
        step = self._link.begin(inputs, training=training, trainable=trainable, jumps=asked)
        try:
            return self._run(step, inputs, jumps)
        except (PeerError, DisagreementError):
            raise
        except Exception as error:
            with suppress(PeerError):
                step.settle()  # other inputs on another rank explain more than what they led to
            self._fail(error)
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        who = f"rank {self.rank} of {self.transport.size}"
        error.add_note(f"on {who}")
        self.transport.fail(f"{who} stopped; its own message says why.")

    def _run(self, step: Call, inputs: dict[str, Any], jumps: Jumps | None) -> tuple[Any, Any]:
        entered: list[Tensor] = []
        inputs = map_tensors(lambda value: self._enter(step, value, entered), inputs)
        self._streams.begin(step.key)
        values: dict[str, Any] = {}
        watched: Iterable[Watch] = ()
        seen: list[Watched] = []
        ran = self._legs[:1]
        if self.solver is not None:
            output = self._solve(self.solver, step, values, inputs)
        elif self._dial is not None:
            ran = self._sweep(self._dial, step, values, inputs, None if jumps is None else seen)
            output = ran[-1].schedule.output
        else:
            output, watched = self.schedule.output, self._legs[0].reported_by(self.rank).values()
            self._go(self._legs[0], step, values, inputs)
        step.settle()
        self._streams.end()
        found = tuple((values[w.new], values[w.old]) for w in watched)
        if jumps is None:
            return self._exit(step, values[output], entered)[0], found
        seen += [(w, *pair) for w, pair in zip(watched, found, strict=True)]
        share = summed(seen, batch_of(inputs)) / number_of(w for leg in ran for w, _ in leg.watches)
        result, (penalty,) = self._exit(step, values[output], entered, [share.to("cpu", WIDE)])
        jumps.keep(penalty, result)
        return result, found

    def _go(
        self, leg: RankStage, step: Call, values: dict[str, Any], inputs: dict[str, Any]
    ) -> None:
        """Run this rank's tasks of a stage."""
        for task, done_with in zip(leg.tasks, leg.done_with, strict=True):
            with self._noted(str(task), task.op):
                self._do(step, task, values, inputs)
            for name in done_with:
                values.pop(name, None)

    def _sweep(
        self,
        dial: SweepControl,
        step: Call,
        values: dict[str, Any],
        inputs: dict[str, Any],
        seen: list[Watched] | None,
    ) -> tuple[RankStage, ...]:
        """Stage after stage until the rule is content; those that ran.

        Only states that the output depends on have adjoints, or the jumps that are to be ``seen``.
        """
        found: tuple[Measure, ...] = ()
        with dial.ledger.step():
            for leg in self._legs:
                if leg is not self._legs[0]:
                    step.post(leg.incoming)
                self._go(leg, step, values, inputs)
                step.settle()
                if seen is not None:
                    mine = leg.reported_by(self.rank).values()
                    seen += [(w, values[w.new], values[w.old]) for w in mine]
                if leg is self._legs[-1]:
                    break
                found += self._measured(leg, dial, values, inputs)
                if dial.rule.is_enough(found, detached(values[leg.schedule.output])):
                    break
        step.only_answers(leg.answered if seen is None else leg.all_answered)
        self.swept = SweepRecord(leg.schedule.sweeps, found)
        return self._legs[: self._legs.index(leg) + 1]

    def _measured(
        self, leg: RankStage, dial: SweepControl, values: dict[str, Any], inputs: dict[str, Any]
    ) -> tuple[Measure, ...]:
        """The jumps of a stage, those of all ranks."""
        batch, mine = batch_of(inputs), leg.reported_by(self.rank)
        pairs = [(values[w.new], values[w.old]) for w in mine.values()]
        own = tables(mine.values(), pairs, batch, dial.known)
        each = dict(zip(mine, own, strict=True))
        every = shared(each, len(leg.watches), batch, self.transport.sum)
        return measures((watch for watch, _ in leg.watches), every)

    def _solve(
        self, solver: MultigridSolver, step: Call, values: dict[str, Any], inputs: dict[str, Any]
    ) -> str:
        """Solve for the last state; then the head, and what delivers the output, whose name it is.

        Where gradients are wanted anywhere, the adjoints are solved for on all ranks.
        """
        step.settle()
        learns = step.learns()
        solved = solver.solve(inputs, RankMessages(self, step), learns=learns)
        schedule = solved.cycles.schedule
        rank, name = last_state(schedule)
        state = solved.values[rank, name] if rank == self.rank else ()
        if learns:
            others = [*solver.depends_on(solved), step.anchor]
            state, token = attach(solver, solved, state, others)
            step.tokens.append(token)
        values[name] = state
        for task in schedule:
            if task.rank == self.rank and is_end(schedule, task):
                with self._noted(str(task), task.op):
                    self._do(step, task, values, inputs)
        return schedule.output

    def message(self, value: str, source: int, target: int) -> Message:
        """The message that brings a value from rank to rank."""
        return self._lines[value, source, target]

    @property
    def streams(self) -> RandomStreams:
        """Random states for this rank's tasks."""
        return self._streams

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which a task is recorded."""
        return self._noted(str(task), task.op)

    def _do(self, step: Call, task: Task, values: dict[str, Any], inputs: dict[str, Any]) -> None:
        match task.op:
            case "apply":
                values[task.value] = self._apply(task, values, inputs)
            case "combine":
                values[task.value] = combine(task.signs, *(values[name] for name in task.reads))
            case "slice":
                values[task.value] = self._slice(task, values)
            case "join":
                values[task.value] = join([values[name] for name in task.reads])
            case "send":
                self._send(step, self._lines[task.reads[0], self.rank, task.peer], values)
            case "recv":
                line = self._lines[task.value, task.peer, self.rank]
                values[task.value] = self._receive(step, line)

    def _slice(self, task: Task, values: dict[str, Any]) -> Any:
        """One part; all are cut at once, so that their adjoints are put together at once."""
        parts = f"{task.reads[0]} in {task.parts}"
        if task.part == 0:
            values[parts] = cut(values[task.reads[0]], task.parts)
        found = values[parts][task.part]
        if task.part == task.parts - 1:
            del values[parts]
        return found

    def _apply(self, task: Task, values: dict[str, Any], inputs: dict[str, Any]) -> Any:
        propagator = self._propagators[task.applied]
        state = tuple(values[name] for name in task.reads if name in values)
        extra = tuple(inputs[name] for name in propagator.inputs)
        self._streams.enter(task.value)
        result = propagator(*state, *extra, commits=task.commits)
        self._streams.leave(task.value)
        self._mark(result, propagator.label)
        return result

    def _noted(self, name: str, kind: str) -> AbstractContextManager[None]:
        recorder = self._link.recorder
        return nullcontext() if recorder is None else recorder.span(name, kind)

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record what this rank does in the block."""
        self._link.recorder = recorder = Recorder()
        try:
            yield recorder
        finally:
            self._link.recorder = None

    def _mark(self, result: Any, label: str) -> None:
        """Know which subnetwork's backward pass runs, for the message should it fail."""
        place = f"{label}, which made {shapes(result)}"

        def enter(_gradient: Tensor) -> None:
            self._link.at(place, "backward")

        for leaf in leaves_of(result):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(enter)

    def _send(self, step: Call, line: Message, values: dict[str, Any]) -> None:
        form, tensors = step.send(line, values[line.value])
        if line.carries and step.learns(self.rank):
            step.left(line, form, depart(step, line, form, tensors))

    def _receive(self, step: Call, line: Message) -> Any:
        form = step.expect(line)
        if line.carries and step.learns(line.source):
            return form.fill(arrive(step, line, form))
        return form.fill(step.take(line))

    def _enter(self, step: Call, value: Any, entered: list[Tensor]) -> Any:
        if self.transport.size == 1 or not step.recording:
            return value
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        entered.append(enter(step, value))
        return entered[-1]

    def _exit(
        self, step: Call, output: Any, entered: list[Tensor], shares: Sequence[Tensor] = ()
    ) -> tuple[Any, Sequence[Tensor]]:
        """The output as the network gives it, and the sums of the ranks' shares."""
        if self.transport.size == 1:
            return output, shares
        if not step.learns():
            return output, [self.transport.sum(share) for share in shares]
        leaves, structure = flatten(output)
        at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        ties = (*step.ties, *entered, step.anchor)
        made = self._makes_output
        results = leave(step, [leaves[i] for i in at], ties, made=made, shares=shares)
        for i, result in zip(at, results, strict=False):
            leaves[i] = result
        return unflatten(leaves, structure), results[len(at) :]
