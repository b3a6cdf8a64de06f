"""Rehearsal: a device without one, which records operations on the CPU and does them again.

It has streams and events that order operations as a CUDA device does, and says which operation
would read or write too early. What is captured on it can be replayed in any order that the events
allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily

from pararealize.errors import MethodError
from pararealize.runtime.capture.device import Device, Recording
from pararealize.runtime.capture.races import NOW, Race, Reads
from pararealize.runtime.capture.tape import (
    HostCall,
    LaneTape,
    Mark,
    Operation,
    Wait,
    storages,
)
from pararealize.runtime.communication.lanes import Streams
from pararealize.runtime.effects.masks import Draws, Masks

#: Backends of torch.compile that make other code than operations of torch.
UNSEEN = frozenset({"inductor", "tvm", "openxla", "onnxrt"})
#: Operations whose result Python would have to wait for, or whose shape depends on numbers.
UNKNOWN = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@final
class Rehearsal(Device):
    """A CPU that records and replays as a CUDA device does.

    ``order`` is that of a replay: the host's, or ``"latest"``, in which the lane that was launched
    last runs as far as its events allow; ``races`` are what was seen to be read or written too
    early, in all captures.
    """

    streams: RecordedStreams
    backend = "aot_eager"

    def __init__(self, order: Literal["host", "latest"] = "host") -> None:
        self.streams = RecordedStreams()
        self.order = order
        self.races: list[Race] = []
        self.recorder: TorchDispatchMode | None = None

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the CPU."""
        return tensor.device.type == "cpu"

    def records(self, backend: object) -> bool:
        """Whether what a backend makes consists of operations of torch."""
        return backend not in UNSEEN

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A block outside of what records: the guards of code ask whether operations are seen."""
        if self.recorder is None:
            yield
            return
        with _pop_mode_temporarily():
            yield

    def seen(self, backend: str | Callable[..., Any]) -> Callable[..., Any]:
        """The backend, the operations of whose code are recorded."""
        return partial(_seen, self, backend)

    @property
    def is_recording(self) -> bool:
        """Whether operations are recorded."""
        return self.streams.tape is not None

    def recording(self) -> RehearsedGraph:
        """A new graph."""
        if self.is_recording:
            raise MethodError(
                "capture inside a capture: a graph is being recorded already; call the network "
                "itself there, which becomes part of that graph."
            )
        return RehearsedGraph(self)

    def wait(self) -> None:
        """Nothing is under way."""


def _seen(
    device: Rehearsal, backend: str | Callable[..., Any], graph: Any, inputs: Any, **options: Any
) -> Callable[..., Any]:
    """The code that a backend makes of a graph, run where operations are recorded."""
    make = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
    code = make(graph, inputs, **options)

    def run(*arguments: Any) -> Any:
        if device.recorder is None:
            return code(*arguments)
        with device.recorder:
            return code(*arguments)

    return run


@final
class RecordedStreams(Streams):
    """Lanes of a tape, where one is recorded."""

    def __init__(self) -> None:
        self.tape: LaneTape | None = None
        self.lanes = [NOW]
        self.events = 0
        self._spans: list[tuple[int, int, int]] = []

    @contextmanager
    def on(self, lane: int) -> Iterator[None]:
        """A block whose operations are those of a lane, and so are their backward ones."""
        self.lanes.append(lane)
        begin = torch._C._autograd._get_sequence_nr()
        try:
            yield
        finally:
            self.lanes.pop()
            self._spans.append((begin, torch._C._autograd._get_sequence_nr(), lane))

    def begin(self) -> None:
        """A step begins: nodes of earlier ones are forgotten."""
        self._spans.clear()

    def lane_of(self, node: Any) -> int:
        """Where an operation runs: in the block's lane, or where its node was made."""
        if node is None or self.lanes[-1] != NOW:
            return self.lanes[-1]
        at = node._sequence_nr()
        return next((lane for begin, end, lane in self._spans if begin <= at < end), NOW)

    def mark(self) -> int:
        """The number of an event."""
        self.events += 1
        if self.tape is not None:
            self.tape.add(Mark(self.lanes[-1], self.events))
        return self.events

    def wait(self, event: int) -> None:
        """What is recorded from now on follows the event."""
        if self.tape is not None:
            self.tape.add(Wait(self.lanes[-1], event))

    def keep(self, tensor: Tensor) -> None:
        """What is recorded is kept anyway."""


@final
class RehearsedGraph(Recording):
    """Records the operations of a step, and does them again on the same memory."""

    draws: HostDraws

    def __init__(self, device: Rehearsal) -> None:
        self._device, self.tape = device, LaneTape()
        self.draws = HostDraws(device.streams)

    def warm(self, step: Callable[[], Any]) -> None:
        """Do the step."""
        self.draws.begin()
        step()

    def capture(self, step: Callable[[], Any]) -> Any:
        """Record the step."""
        streams = self._device.streams
        streams.tape = self.tape
        streams.begin()
        self.draws.begin()
        reads = Reads()
        try:
            with _Recorder(self.tape, streams, reads) as self._device.recorder:
                result = step()
        finally:
            streams.tape = self._device.recorder = None
        self._device.races += reads.races
        return result

    def replay(self) -> None:
        """Do again what was recorded, in an order that the events allow."""
        self.draws.begin()
        with torch.no_grad():
            self.tape.run(latest=self._device.order == "latest")


@final
class HostDraws(Draws):
    """Draws as a host does, in a replay as well."""

    def __init__(self, streams: RecordedStreams) -> None:
        self._streams = streams
        self._masks: dict[Masks, None] = {}

    def begin(self) -> None:
        """A step begins: it has drawn nothing."""
        for masks in self._masks:
            masks.begin_step()

    @contextmanager
    def drawn(self, masks: Masks, values: tuple[Any, ...], commits: bool) -> Iterator[None]:
        """A block that draws what the masks say, now and in every replay."""
        self._masks[masks] = None
        open_blocks: list[Any] = []

        def enter() -> None:
            masks.captured, before = None, masks.captured
            block = masks.drawn(values, commits=commits)
            block.__enter__()
            masks.captured = before
            open_blocks.append(block)

        def leave() -> None:
            open_blocks.pop().__exit__(None, None, None)

        self._call(enter)
        yield
        self._call(leave)

    def _call(self, function: Callable[[], None]) -> None:
        function()
        if self._streams.tape is not None:
            self._streams.tape.add(HostCall(self._streams.lanes[-1], function))


@final
class _Recorder(TorchDispatchMode):
    """Sees every operation, of forward and backward passes.

    Autograd runs a node on the stream on which it was made. It begins after the backward pass was
    called, and after those nodes whose gradients it reads.
    """

    is_recording = True  # so that nothing is decided by numbers

    def __init__(self, tape: LaneTape, streams: RecordedStreams, reads: Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tape, self._streams, self._reads = tape, streams, reads
        self._gradients: dict[int, int] = {}  # lanes by memory that backward passes have made
        self._called: int | None = None  # the event of the backward pass under way
        self._begun: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(tag in func.tags for tag in UNKNOWN):
            raise MethodError(
                f"a graph cannot record {func}: Python would wait for its numbers, or its shape "
                "depends on them. Call the network itself, or take the layer that does so out."
            )
        kwargs = kwargs or {}
        node = torch._C._current_autograd_node()
        lane, read = self._streams.lane_of(node), storages((args, kwargs))
        is_backward = self._follow(lane, read, is_node=node is not None)
        result = func(*args, **kwargs)
        operation = Operation(lane, func, args, kwargs, result)
        self._tape.add(operation)
        self._reads.note(self._tape.known, operation)
        if is_backward:
            made = storages(result) - read
            self._gradients |= dict.fromkeys(made, lane)
        return result

    def _follow(self, lane: int, read: set[int], *, is_node: bool) -> bool:
        """Wait as autograd does; whether the operation is part of a backward pass."""
        found = {self._gradients[place] for place in read & self._gradients.keys()}
        for other in found - {lane}:
            self._tape.add(Wait(lane, self._mark(other)))
        if not is_node:
            self._called = None
            return bool(found)
        if self._called is None:
            self._called = self._mark(NOW)
            self._begun = {NOW}
        if lane not in self._begun:
            self._begun.add(lane)
            self._tape.add(Wait(lane, self._called))
        return True

    def _mark(self, lane: int) -> int:
        self._streams.events += 1
        self._tape.add(Mark(lane, self._streams.events))
        return self._streams.events
