"""Device: streams, events and graphs, as far as capturing needs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
    """What networks are captured on; ``streams`` are where lanes run."""

    streams: Streams

    @abstractmethod
    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the device."""

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
