"""Gloo: ranks that reach each other through a torch.distributed process group of their own."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from pararealize.errors import PeerError
from pararealize.runtime.communication.peer_to_peer import ROW, PeerToPeer
from pararealize.runtime.communication.process_group import place_in
from pararealize.runtime.communication.transport import PATIENCE, TOGETHER
from pararealize.runtime.communication.waiting import Wait

#: The tag of a message that nobody sends.
NOTHING = 2**28

#: Seconds between two looks at how long a rank has waited, and at who has come.
LOOK, SOON = 0.5, 0.005

#: Seconds that opening a group may take at least: it begins when all have come once.
LEAST = 60.0

#: Seconds that the cause of a failure may take to be known after a connection is closed.
GRACE = 1.0


@final
class GlooTransport(PeerToPeer):
    """Messages over a gloo group that only the ranks of some networks use, beside the user's.

    It is found through the store of the user's ``group``, all whose ranks make one. Gloo closes all
    connections of a group when the time of one wait is over: so a rank that fails wakes the others,
    who find the reason in the store. After a failure that was caught, all open another group.

    Raises:
        RankError: the group has been destroyed, or this process is none of its members.

    """

    def __init__(self, group: dist.ProcessGroup, patience: float = PATIENCE) -> None:
        rank, size, _ = place_in(group)
        super().__init__(rank, size, patience)
        store = PrefixStore("pararealize", group.get_group_store())
        number = store.add(f"networks of {rank}", 1)  # by the store: groups outlive what uses them
        self._store = PrefixStore(str(number), store)
        self._leaving: list[Any] = []
        self._before: list[Any] = []
        self._posted: dict[int, tuple[Any, Tensor]] = {}
        self._count = 0
        self.waits: Wait | None = None
        self._group = self._opened(0)
        watch = threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True)
        watch.start()

    def _opened(self, epoch: int) -> Any:
        store = PrefixStore(str(epoch), self._store)
        limit = timedelta(seconds=max(self.patience, LEAST))
        try:
            return dist.ProcessGroupGloo(store, self.rank, self.size, limit)
        except RuntimeError as error:
            raise PeerError(self.lost(-1)) from error

    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        numbers = numbers.cpu()
        if tag == ROW:
            self._before, self._leaving = [*self._before, *self._leaving], []
        work = self._try(peer, lambda: self._group.send([numbers], peer, tag))
        self._leaving.append((work, numbers))

    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""
        self.check()
        here = numbers if numbers.device.type == "cpu" else torch.empty_like(numbers, device="cpu")
        work = self._try(peer, lambda: self._group.recv([here], peer, tag))
        self._count += 1
        number = self._count
        self._posted[number] = work, here

        def wait() -> None:
            self._complete(number, peer)
            if here is not numbers:
                numbers.copy_(here)

        return wait

    def _complete(self, number: int, peer: int) -> None:
        if number not in self._posted:
            self.check()
            raise PeerError("this message was given up after a failure: call the network anew.")
        work, _ = self._posted[number]
        self._try(peer, lambda: work.wait(timedelta(seconds=self.patience)))
        del self._posted[number]

    def begin_gather(
        self, numbers: Sequence[int], doing: str = TOGETHER
    ) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers, at most three, from every rank; the result waits."""
        begun = super().begin_gather(numbers, doing)

        def wait() -> list[list[int]]:
            rows = begun()
            # All ranks have come to this gathering, and so received what was sent before it; gloo
            # does not tell that a message has left until it is waited for.
            for work, _ in self._before:
                self._try(-1, work.wait)
            self._before = []
            return rows

        return wait

    def _try(self, peer: int, action: Callable[[], Any]) -> Any:
        self.waits = wait = Wait(self, peer)
        try:
            return action()
        except RuntimeError as error:
            reason = self._cause(peer, wait)
            self.fail(reason)
            raise PeerError(reason) from error
        finally:
            self.waits = None

    def _cause(self, peer: int, wait: Wait) -> str:
        """Why a connection was closed: what a rank that failed has said, or what is seen of it."""
        if wait.is_over():
            return self.lost(peer)
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            if said := self._said(f"failure {self.epoch}"):
                return said
            time.sleep(SOON)
        who = f"rank {peer}" if peer >= 0 else "the other ranks"
        text = f"rank {self.rank} of {self.size} lost {who}: ended without a word, or was killed."
        self._say(f"end {peer}", text)
        return text

    def _said(self, key: str) -> str:
        """What stands in the store; nothing where it does not, or where the store is gone."""
        try:
            found = self._store.get(key) if self._store.check([key]) else b""
        except RuntimeError:  # the process that keeps the store has ended
            return ""
        text: str = found.decode()
        return text

    def _say(self, key: str, text: str) -> None:
        with suppress(RuntimeError):  # the process that keeps the store has ended: nobody reads it
            self._store.compare_set(key, "", text)

    def _announce(self, reason: str) -> None:
        self._say(f"failure {self.epoch}", reason)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connections to all other ranks, which wakes those that wait for this one."""
        for peer in self.others:
            with suppress(RuntimeError):  # as it always raises: the time is over
                work = self._group.recv([torch.empty(1)], peer, NOTHING)
                work.wait(timedelta(milliseconds=1))

    def _mend(self) -> list[int]:
        keys = [f"steps {self.epoch} {rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], str(self.steps))
        wait, looks = Wait(self, -1), 0
        while not self._store.check(keys):
            looks += 1
            gone = [self._said(f"end {rank}") for rank in self.others] if looks % 100 == 0 else []
            if any(gone) or wait.is_over():
                raise PeerError(next(filter(None, gone), self.lost(-1)))
            time.sleep(SOON)
        self.hang_up()  # all have come, and nobody waits in the old group any more
        self._posted.clear()
        self._leaving, self._before = [], []
        self._group = self._opened(self.epoch + 1)
        return [int(self._said(key)) for key in keys]

    def farewell(self, failure: str) -> None:
        """At the end of the process, let those know who still wait for this rank, and why it ends.

        What was sent is let go first: the process takes its connections with it.
        """
        if not failure:
            self._let_leave()
        left = f"rank {self.rank} of {self.size} has ended, and is still waited for."
        self._say(f"failure {self.epoch}", failure or left)
        self._say(f"end {self.rank}", failure or left)

    def _let_leave(self) -> None:
        """Wait until what was sent has left."""
        for work, _ in [*self._before, *self._leaving] if not self.broken else []:
            try:
                work.wait(timedelta(seconds=GRACE))
            except RuntimeError:  # it was not wanted, and now all connections are closed
                return


def _watch(transport: weakref.ref[GlooTransport]) -> None:
    """Look, beside the thread that waits inside of gloo, at how long it has waited."""
    while True:
        time.sleep(LOOK)
        this = transport()
        if this is None:
            return
        wait = this.waits
        if wait is not None:
            wait.is_over()
        del this, wait
