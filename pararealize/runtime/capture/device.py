"""Device: streams, events and graphs, as far as capturing needs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from pararealize.runtime.communication.lanes import Streams
from pararealize.runtime.effects.masks import Draws


class Recording(ABC):
    """A graph of a device: what a step does is recorded once, and done again.

    ``draws`` gives random numbers that the host cannot put back in a replay.
    """

    draws: Draws

    @abstractmethod
    def warm(self, step: Callable[[], Any]) -> None:
        """Do the step without recording, where libraries choose kernels and allocate."""

    @abstractmethod
    def capture(self, step: Callable[[], Any]) -> Any:
        """Record the step; replays put what it gives into the same memory.

        Its numbers mean nothing before the first replay.
        """

    @abstractmethod
    def replay(self) -> None:
        """Do again what was recorded."""


class Device(ABC):
    """What networks are captured on; ``streams`` are where lanes run.

    ``backend`` is what compiles pieces there, where no other one is asked for.
    """

    streams: Streams
    backend: str

    @abstractmethod
    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the device."""

    def can(self, tensor: Tensor) -> bool:
        """Whether a tensor lies where graphs can be recorded, on any such device."""
        return self.holds(tensor)

    def at(self, values: Sequence[Any]) -> AbstractContextManager[Any]:  # noqa: ARG002
        """A block that works on the device on which the tensors among some values lie."""
        return nullcontext()

    @abstractmethod
    def records(self, backend: object) -> bool:
        """Whether what a backend of torch.compile makes becomes part of a graph."""

    def entered(self) -> AbstractContextManager[Any]:
        """A block that calls compiled code, whose guards look at what is in force."""
        return nullcontext()

    def seen(self, backend: str | Callable[..., Any]) -> str | Callable[..., Any]:
        """The backend, whose code is seen by the device in such a block."""
        return backend

    @property
    @abstractmethod
    def is_recording(self) -> bool:
        """Whether what is called becomes part of a graph; a replay cannot."""

    @abstractmethod
    def recording(self) -> Recording:
        """A new graph.

        Raises:
            MethodError: one is being recorded.

        """

    @abstractmethod
    def wait(self) -> None:
        """Wait until all that was launched has ended."""
