"""Rank tasks: one rank's tasks carried out, with what they send and receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication import autograd
from pararealize.runtime.communication.endpoint import Call, Endpoint
from pararealize.runtime.communication.message import Message
from pararealize.runtime.communication.passage import Passage
from pararealize.runtime.communication.random_streams import RandomStreams
from pararealize.runtime.runners.rank_stages import RankStage, Route
from pararealize.runtime.values.checks import shapes
from pararealize.runtime.values.combine import combine, cut, join
from pararealize.runtime.values.pytree import map_tensors, tensors_of, with_tensors


@dataclass
class RankCall:
    """One call of the network on a rank: its messages, its inputs, and the values known so far.

    ``anchor`` leads the backward pass of every message to all that may want a gradient.
    """

    call: Call
    inputs: dict[str, Any]
    anchor: Tensor
    values: dict[str, Any] = field(default_factory=dict)


@final
class RankTasks:
    """Carries out the tasks of one rank, whose end of the messages is the ``endpoint``."""

    def __init__(
        self,
        propagators: Mapping[Target, Propagator],
        messages: Mapping[Route, Message],
        endpoint: Endpoint,
        streams: RandomStreams,
        *,
        guarded: bool,
    ) -> None:
        self._guarded = guarded
        self.rank, self._size = endpoint.transport.rank, endpoint.transport.size
        self.endpoint, self.streams = endpoint, streams
        self._propagators, self._messages = propagators, messages

    def run_stage(self, stage: RankStage, here: RankCall) -> None:
        """Run the tasks of a stage, and forget what nothing after them reads."""
        for task, done_with in zip(stage.tasks, stage.done_with, strict=True):
            self.run(task, here)
            for name in done_with:
                here.values.pop(name, None)

    def run(self, task: Task, here: RankCall) -> None:
        """Run one task, recorded where that is asked for."""
        with self.noted(task):
            self._carry_out(task, here)

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which a task is recorded."""
        recorder = self.endpoint.recorder
        return nullcontext() if recorder is None else recorder.span(str(task), task.op)

    def message(self, value: str, source: int, target: int) -> Message:
        """The message that brings a value from rank to rank."""
        return self._messages[value, source, target]

    def _carry_out(self, task: Task, here: RankCall) -> None:
        values = here.values
        match task.op:
            case "apply":
                values[task.value] = self._apply(task, here)
            case "combine":
                terms = (values[name] for name in task.reads)
                values[task.value] = combine(task.signs, *terms, guarded=self._guarded)
            case "slice":
                values[task.value] = self._slice(task, values)
            case "join":
                values[task.value] = join([values[name] for name in task.reads])
            case "send":
                message = self.message(task.reads[0], self.rank, task.peer)
                self._send(here, message, values[message.value])
            case "recv":
                message = self.message(task.value, task.peer, self.rank)
                values[task.value] = self._receive(here, message)

    def _slice(self, task: Task, values: dict[str, Any]) -> Any:
        """One part; all are cut at once, so that their adjoints are put together at once."""
        parts = f"{task.reads[0]} in {task.parts}"
        if task.part == 0:
            values[parts] = cut(values[task.reads[0]], task.parts)
        found = values[parts][task.part]
        if task.part == task.parts - 1:
            del values[parts]
        return found

    def _apply(self, task: Task, here: RankCall) -> Any:
        propagator = self._propagators[task.applied]
        state = tuple(here.values[name] for name in task.reads if name in here.values)
        extra = tuple(here.inputs[name] for name in propagator.inputs)
        with self.streams.drawing(task.value):
            result = propagator(*state, *extra, commits=task.commits)
        self._mark(result, propagator.label)
        return result

    def _mark(self, result: Any, label: str) -> None:
        """Know which subnetwork's backward pass runs, for the message should it fail."""
        place = f"{label}, which made {shapes(result)}"

        def reach(_gradient: Tensor) -> None:
            self.endpoint.reach(place, "backward")

        for tensor in tensors_of(result):
            if tensor.requires_grad:
                tensor.register_hook(reach)

    def _send(self, here: RankCall, message: Message, value: Any) -> None:
        call = here.call
        form, tensors = call.send(message, value)
        if message.carries and call.learns(self.rank):
            passage = Passage(call, message, form)
            token = autograd.SentState.apply(passage, here.anchor, *tensors)  # type: ignore[no-untyped-call]
            call.left(message, form, token)

    def _receive(self, here: RankCall, message: Message) -> Any:
        call = here.call
        form = call.expect(message)
        if message.carries and call.learns(message.source):
            tensors = autograd.ReceivedState.apply(Passage(call, message, form), here.anchor)  # type: ignore[no-untyped-call]
            return form.fill(tensors)
        return form.fill(call.take(message))

    def begin(self, call: Call, inputs: Mapping[str, Any], weights: Sequence[Tensor]) -> RankCall:
        """A call begins; inputs that want a gradient get the sum of what all ranks find."""
        here = RankCall(call, dict(inputs), call.anchor)
        if self._size > 1 and call.recording:
            wanting = [tensor for tensor in tensors_of(here.inputs) if tensor.requires_grad]
            here.anchor, *entered = autograd.Entry.apply(  # type: ignore[no-untyped-call]
                call, len(wanting), call.anchor, *wanting, *weights
            )
            found = iter(entered)
            here.inputs = map_tensors(lambda t: next(found) if t.requires_grad else t, here.inputs)
        self.streams.begin(call.key, call.settle)
        return here

    def end(
        self, here: RankCall, output: Any, *, made: bool, shares: Sequence[Tensor] = ()
    ) -> tuple[Any, Sequence[Tensor]]:
        """The output as the network gives it, and the sums over all ranks of their ``shares``.

        ``made`` says whether this rank made the output.
        """
        call = here.call
        if self._size == 1:
            return output, shares
        if not call.learns():
            return output, [self.endpoint.transport.sum(share) for share in shares]
        tensors, tokens = tensors_of(output), (*call.tokens, here.anchor)
        counts = len(tensors), len(shares)
        results = autograd.SharedOutput.apply(call, made, counts, *tensors, *shares, *tokens)  # type: ignore[no-untyped-call]
        return with_tensors(output, results), results[len(tensors) : -1]


@final
class RankMessages:
    """Messages of a multigrid solve: plain states, whose adjoints are solved for."""

    def __init__(self, tasks: RankTasks, call: Call) -> None:
        self._tasks, self._call = tasks, call

    def send(self, task: Task, value: Any) -> None:
        """Send a state to the rank ``task.peer``."""
        self._call.send(self._tasks.message(task.reads[0], task.rank, task.peer), value)

    def receive(self, task: Task) -> Any:
        """Wait for the state that the rank ``task.peer`` sends."""
        message = self._tasks.message(task.value, task.peer, task.rank)
        return self._call.expect(message).fill(self._call.take(message))

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """The numbers of all ranks."""
        if not numbers:
            return []
        mine = torch.tensor(numbers, dtype=torch.float64)
        return [float(number) for number in self._call.transport.sum(mine)]

    def drawing(self, target: Target) -> AbstractContextManager[None]:
        """A block in which a propagator draws random numbers, from its place in the stream."""
        return self._tasks.streams.drawing(target)

    def noted(self, task: Task) -> AbstractContextManager[None]:
        """A block in which the task is recorded; in a backward pass, the next place in it."""
        endpoint = self._call.endpoint
        if endpoint.open is None:
            return self._tasks.noted(task)
        endpoint.reach(str(task), task.op)
        return nullcontext()
