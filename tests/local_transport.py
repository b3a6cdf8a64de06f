"""Ranks that are threads of one process, and messages between them."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, final

from torch import Tensor

from pararealize.errors import PeerError
from pararealize.runtime.communication.peer_to_peer import PeerToPeer
from pararealize.runtime.communication.transport import PATIENCE

#: Source, target and tag of messages.
Way = tuple[int, int, int]


@final
class LocalGroup:
    """What the threads share: messages on their way, and gatherings.

    ``group.member(rank)`` is what thread ``rank`` passes as ``comm``.
    """

    def __init__(self, size: int, patience: float = PATIENCE) -> None:
        self.size, self.patience = size, patience
        self.changed = threading.Condition()
        self.boxes: defaultdict[Way, dict[int, Tensor]] = defaultdict(dict)
        self.sent: Counter[Way] = Counter()
        self.asked: Counter[Way] = Counter()
        self.mending: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.failures: dict[int, str] = {}
        self.lock = threading.Lock()

    def member(self, rank: int) -> LocalTransport:
        """The transport of one thread."""
        return LocalTransport(self, rank)


@final
class LocalTransport(PeerToPeer):
    """Messages to the other threads of a :class:`LocalGroup`.

    Threads share PyTorch's random state: networks that draw random numbers need processes.
    """

    def __init__(self, group: LocalGroup, rank: int) -> None:
        super().__init__(rank, group.size, group.patience)
        self._group = group

    def alone(self) -> AbstractContextManager[Any]:
        """A block that ranks of one process run one after another."""
        return self._group.lock

    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        group, way = self._group, (self.rank, peer, tag)
        with group.changed:
            group.boxes[way][group.sent[way]] = numbers.detach().clone()
            group.sent[way] += 1
            group.changed.notify_all()

    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""
        self.check()
        way, epoch = (peer, self.rank, tag), self.epoch
        with self._group.changed:
            box, number = self._group.boxes[way], self._group.asked[way]
            self._group.asked[way] += 1  # the n-th receive is for the n-th message

        def wait() -> None:
            if self.epoch != epoch:
                raise PeerError("given up")
            self._wait(lambda: number in box, peer)
            numbers.detach().copy_(box.pop(number))

        return wait

    def _wait(self, ready: Callable[[], bool], peer: int) -> None:
        end = time.monotonic() + self.patience
        with self._group.changed:
            while not ready():
                if not self.broken and self.epoch in self._group.failures:
                    self.broken = self._group.failures[self.epoch]
                    raise PeerError(self.broken)
                if not self._group.changed.wait(max(0.0, end - time.monotonic())):
                    raise PeerError(self.lost(peer))

    def _announce(self, reason: str) -> None:
        with self._group.changed:
            self._group.failures.setdefault(self.epoch, reason)
            self._group.changed.notify_all()

    def _mend(self) -> list[int]:
        come = self._group.mending[self.epoch]
        with self._group.changed:
            come[self.rank] = self.steps
            if len(come) == self.size:
                for kept in (self._group.boxes, self._group.sent, self._group.asked):
                    kept.clear()
            self._group.changed.notify_all()
        self._wait(lambda: len(come) == self.size, -1)
        return [come[rank] for rank in range(self.size)]
