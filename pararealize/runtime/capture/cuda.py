"""CUDA: graphs of a CUDA device, with generators that a replay moves on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor

from pararealize.errors import MethodError
from pararealize.runtime.capture.device import Device, Recording
from pararealize.runtime.communication.lanes import CudaStreams
from pararealize.runtime.effects.masks import Draws, Masks

#: Numbers that a replay moves the device's generator on by, as Philox counts them.
STRIDE = 4


@final
class CudaDevice(Device):
    """The current CUDA device.

    Raises:
        MethodError: there is none.

    """

    backend = "inductor"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MethodError(
                "capture: CUDA graphs need a CUDA device, and this PyTorch sees none: call the "
                "network itself, net(x), or rehearse on the CPU: net.capture(device=Rehearsal())."
            )
        self.streams = CudaStreams()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the current CUDA device."""
        return tensor.is_cuda and tensor.device.index == torch.cuda.current_device()

    def can(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on any CUDA device."""
        return tensor.is_cuda

    def at(self, values: Sequence[Any]) -> AbstractContextManager[Any]:
        """A block on the device of the first tensor."""
        first = next((value for value in values if isinstance(value, Tensor)), None)
        return nullcontext() if first is None else torch.cuda.device(first.device)

    def records(self, backend: object) -> bool:  # noqa: ARG002
        """Kernels are recorded, whatever launches them."""
        return True

    @property
    def is_recording(self) -> bool:
        """Whether the current stream is recorded."""
        return torch.cuda.is_current_stream_capturing()

    def recording(self) -> CudaGraph:
        """A new CUDA graph."""
        if self.is_recording:
            raise MethodError(
                "capture inside a capture: the current stream is recording a CUDA graph already; "
                "call the network itself there, which becomes part of that graph."
            )
        return CudaGraph()

    def wait(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()


@final
class CudaGraph(Recording):
    """A CUDA graph of the current device: records the kernels of a step, launches them again."""

    draws: GraphDraws

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self.draws = GraphDraws()

    def warm(self, step: Callable[[], Any]) -> None:
        """Run a step on its own stream, after what was launched before, ahead of what follows."""
        side, now = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(now)
        with torch.cuda.stream(side):
            self.draws.begin()
            step()
        now.wait_stream(side)

    def capture(self, step: Callable[[], Any]) -> Any:
        """Record a step on torch's capturing stream; replays put the result into its tensors."""
        self.draws.begin()
        for state in self.draws.states:
            self._graph.register_generator_state(state)
        with torch.cuda.graph(self._graph):
            return step()

    def replay(self) -> None:
        """Run what was recorded, on the current stream."""
        self.draws.begin()
        self._graph.replay()


@final
class GraphDraws(Draws):
    """Generator states of a graph: one for every evaluation of a propagator that draws.

    Those of one propagator begin a step alike, so that all its evaluations draw one mask; where
    they begin moves on with the device's generator, step by step.
    """

    def __init__(self) -> None:
        self._own: dict[Masks, list[Any]] = {}
        self._evaluated: dict[Masks, int] = {}

    @property
    def states(self) -> list[Any]:
        """All of them."""
        return [state for own in self._own.values() for state in own]

    def begin(self) -> None:
        """A step begins: every state where its propagator's numbers begin."""
        self._evaluated.clear()
        if not self._own:
            return
        generator = _generator()
        begin = generator.initial_seed(), generator.get_offset()
        for number, own in enumerate(self._own.values()):
            for state in own:
                state.manual_seed(seed_of(*begin, number))
        generator.set_offset(begin[1] + STRIDE)

    @contextmanager
    def drawn(self, masks: Masks, _values: tuple[Any, ...], _commits: bool) -> Iterator[None]:
        """A block in which the device's generator is the next state of the propagator."""
        generator, own = _generator(), self._own.setdefault(masks, [])
        number = self._evaluated.get(masks, 0)
        self._evaluated[masks] = number + 1
        if number == len(own):
            own.append(self._begun(own[0] if own else generator))
        before = generator.graphsafe_get_state()
        generator.graphsafe_set_state(own[number])
        try:
            yield
        finally:
            generator.graphsafe_set_state(before)

    def _begun(self, like: Any) -> Any:
        """A state that begins where another does; only warming up may make one.

        Raises:
            MethodError: the step draws more often than it did before it was recorded.

        """
        if torch.cuda.is_current_stream_capturing():
            raise MethodError(
                "a random layer is evaluated more often while a graph is recorded than before: its "
                "generator cannot be captured; call the network itself."
            )
        return like.clone_state()


def seed_of(seed: int, offset: int, number: int) -> int:
    """A seed for a propagator in a step, of where the device's generator is; 0 … 2^63 - 1."""
    told = f"{seed} {offset} {number}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) >> 1


def _generator() -> Any:
    """The current device's own."""
    return torch.cuda.default_generators[torch.cuda.current_device()]
