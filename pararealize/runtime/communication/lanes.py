"""Lanes: subnetworks of one device side by side, each on a stream of its own.

A lane begins where the streams are forked, waits for what it reads of the others, and ends where
they are joined::

    now      ──┬─────────────────────────────┬── head
    lane 1     ├─ fine.1 ─●                  ┤
    lane 2     ├─ fine.2 ──── wait ─ coarse.2 ●
    lane 3     └─ fine.3 ───────────────── wait ─ coarse.3
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from pararealize.ir.stages import Key
from pararealize.runtime.values.pytree import tensors_of


class Streams(ABC):
    """What runs lanes side by side, each in its order, unless one waits for another.

    Lane 0 is where the caller is. Events are whatever :meth:`mark` gives.
    """

    @abstractmethod
    def on(self, lane: int) -> AbstractContextManager[Any]:
        """A block whose work is queued on a lane."""

    @abstractmethod
    def mark(self) -> Any:
        """An event: what the lane of the block holds so far has ended."""

    @abstractmethod
    def wait(self, event: Any) -> None:
        """What is queued from now on in the block begins after the event."""

    @abstractmethod
    def keep(self, tensor: Tensor) -> None:
        """The tensor's memory is not given to others before the lane of the block has read it."""


@final
class CudaStreams(Streams):
    """Streams of the current CUDA device: they run side by side unless one waits for another."""

    def __init__(self) -> None:
        self._found: dict[int, torch.cuda.Stream] = {}

    def on(self, lane: int) -> AbstractContextManager[Any]:
        """A block whose work is queued on a lane; its stream is made when first asked for."""
        if lane not in self._found:
            self._found[lane] = torch.cuda.Stream()
        return torch.cuda.stream(self._found[lane])

    def mark(self) -> torch.cuda.Event:
        """An event: what the current stream holds so far has ended."""
        event: torch.cuda.Event = torch.cuda.current_stream().record_event()
        return event

    def wait(self, event: torch.cuda.Event) -> None:
        """What is queued from now on begins after the event; the host does not wait."""
        torch.cuda.current_stream().wait_event(event)

    def keep(self, tensor: Tensor) -> None:
        """The tensor's memory is not given to others before the current stream has read it."""
        tensor.record_stream(torch.cuda.current_stream())


@final
@dataclass
class Lanes:
    """Lanes that run each on a stream of its own."""

    streams: Streams
    _start: Any = field(default=None, init=False)
    _made: dict[Key, tuple[int, Any]] = field(default_factory=dict, init=False)
    _last: dict[int, Any] = field(default_factory=dict, init=False)

    @contextmanager
    def forked(self) -> Iterator[None]:
        """A block on several lanes, which begin after what is before it, and end with it."""
        self._start = self.streams.mark()  # events of an earlier block have passed
        self._made.clear()
        self._last.clear()
        try:
            yield
        finally:
            for event in self._last.values():
                self.streams.wait(event)

    @contextmanager
    def on(
        self, lane: int, reads: Sequence[Key], makes: Sequence[Key], values: Mapping[Key, Any]
    ) -> Iterator[None]:
        """A block that waits for what other lanes make of what it reads, once each."""
        with self.streams.on(lane):
            if lane not in self._last:
                self.streams.wait(self._start)
            for key in reads:
                self._take(lane, key, values)
            yield
            self._last[lane] = event = self.streams.mark()
            self._made |= dict.fromkeys(makes, (lane, event))

    def _take(self, lane: int, key: Key, values: Mapping[Key, Any]) -> None:
        by, event = self._made.get(key, (lane, None))
        if by == lane:
            return
        self.streams.wait(event)
        for tensor in tensors_of(values[key]):
            self.streams.keep(tensor)
