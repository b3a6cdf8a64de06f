"""Ranks that are threads of one process, and messages between them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from torch import Tensor

from pararealize.errors import PeerError
from pararealize.runtime.communication.transport import PATIENCE, Transport


@final
class LocalGroup:
    """What the threads share: messages on their way, and gatherings.

    ``group.member(rank)`` is what thread ``rank`` passes as ``comm``.
    """

    def __init__(self, size: int, patience: float = PATIENCE) -> None:
        self.size, self.patience = size, patience
        self.changed = threading.Condition()
        self.boxes: defaultdict[tuple[int, int, int], deque[Tensor]] = defaultdict(deque)
        self.rounds: defaultdict[int, dict[int, Any]] = defaultdict(dict)
        self.failure = ""
        self.lock = threading.Lock()

    def member(self, rank: int) -> LocalTransport:
        """The transport of one thread."""
        return LocalTransport(self, rank)


@final
class LocalTransport(Transport):
    """Messages to the other threads of a :class:`LocalGroup`.

    Threads share PyTorch's random state: networks that draw random numbers need processes.
    """

    def __init__(self, group: LocalGroup, rank: int) -> None:
        super().__init__(rank, group.size, group.patience)
        self._group = group
        self._round = 0

    def alone(self) -> AbstractContextManager[Any]:
        """A block that ranks of one process run one after another."""
        return self._group.lock

    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        with self._group.changed:
            self._group.boxes[self.rank, peer, tag].append(numbers.detach().clone())
            self._group.changed.notify_all()

    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""
        box = self._group.boxes[peer, self.rank, tag]

        def wait() -> None:
            self._wait(lambda: bool(box), peer)
            numbers.detach().copy_(box.popleft())

        return wait

    def _wait(self, ready: Callable[[], bool], peer: int) -> None:
        end = time.monotonic() + self.patience
        with self._group.changed:
            while not ready():
                if self._group.failure:
                    raise PeerError(self._group.failure)
                if not self._group.changed.wait(end - time.monotonic()):
                    raise self.lost(peer)

    def begin_gather(self, numbers: Sequence[int]) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers from every rank; the result waits for them."""
        return self._begin(list(numbers))

    def _begin(self, value: Any) -> Callable[[], list[Any]]:
        self._round += 1
        found = self._group.rounds[self._round]
        with self._group.changed:
            found[self.rank] = value
            self._group.changed.notify_all()

        def wait() -> list[Any]:
            self._wait(lambda: len(found) == self.size, -1)
            return [found[rank] for rank in range(self.size)]

        return wait

    def gather(self, value: Any) -> list[Any]:
        """A value of every rank, by rank; all call it."""
        return self._begin(value)()

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all ranks; all call it."""
        parts = self.gather(tensor.detach().clone())
        total: Tensor = sum(parts[1:], parts[0])
        return total

    def fail(self, reason: str) -> None:
        """Tell the other threads that this one cannot go on."""
        with self._group.changed:
            self._group.failure = reason
            self._group.changed.notify_all()
