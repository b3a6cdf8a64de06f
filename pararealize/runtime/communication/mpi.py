"""MPI: ranks that reach each other through an mpi4py communicator."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, final

import numpy as np
import torch
from torch import Tensor

from pararealize.errors import PeerError, RankError
from pararealize.runtime.communication.peer_to_peer import PeerToPeer
from pararealize.runtime.communication.transport import PATIENCE
from pararealize.runtime.communication.waiting import Wait

#: Tags beside the data: ranks hear that another one failed or left; they get over a failure.
ALARM, MEND = 0, 1

#: A waiting rank asks again at once for a while (most messages come soon), then sleeps between;
#: a short while where it holds a core that another rank has use for. There it sleeps the longer
#: the longer it has waited, that share of it: asking every 50 µs takes an eighth of a core.
SPINS, CROWDED, SLEEP = 2000, 200, 5e-5
SHARE, LONGEST = 0.02, 5e-4

#: Seconds that messages may still take after their sender has left.
GRACE = 2.0

#: Seconds that a rank that hears of a failure leaves the one that failed to say why: where errors
#: end a program, the first rank that ends takes the others along, in the middle of their words.
COURTESY = 0.2


@dataclass
class Posted:
    """A receive that has begun: MPI writes on its memory until it is complete or cancelled."""

    request: Any
    memory: np.ndarray[Any, Any]
    peer: int


@final
class MPITransport(PeerToPeer):
    """Messages over duplicates of an mpi4py communicator, one for data and one for alarms.

    While it waits, a rank listens for the failure of others, and Python handles signals. All ranks
    of the communicator make one. After a failure that was caught, each rank cancels the receives
    that it has posted, and takes in what was sent to it, which the others tell it the number of.

    Raises:
        RankError: the communicator has been freed.

    """

    def __init__(self, communicator: Any, patience: float = PATIENCE) -> None:
        from mpi4py import MPI  # noqa: PLC0415  only those who bring a communicator need it

        if communicator == MPI.COMM_NULL:
            raise RankError(
                "the communicator is null or has been freed: pass one that is in use, for example "
                "pararealize(model, n, comm=MPI.COMM_WORLD)."
            )
        self._mpi = MPI
        self._comm, self._beside = communicator.Dup(), communicator.Dup()
        crowded = _is_crowded(communicator.Split_type(MPI.COMM_TYPE_SHARED))
        self._spins, self._pause = (CROWDED, LONGEST) if crowded else (SPINS, SLEEP)
        super().__init__(self._comm.rank, self._comm.size, patience)
        self._leaving: list[tuple[Any, object]] = []
        self._posted: dict[int, Posted] = {}
        self._count = 0  # of receives, which are known by their number
        self._heard: dict[int, tuple[Any, np.ndarray[Any, Any]]] = {}  # in getting over a failure
        self._sent, self._taken = [0] * self.size, [0] * self.size
        self._gone: dict[int, tuple[float, str]] = {}
        self._ahead: list[tuple[int, str]] = []  # failures after one that is not yet got over

    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        numbers = numbers.cpu()
        self._leaving = [(r, kept) for r, kept in self._leaving if not r.Test()]
        self._leaving.append((self._comm.Isend(_bytes(numbers), peer, tag), numbers))
        self._sent[peer] += 1

    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""
        self.check()
        here = numbers if numbers.device.type == "cpu" else torch.empty_like(numbers, device="cpu")
        number = self._post(_bytes(here), peer, tag)

        def wait() -> None:
            self._complete(number)
            self._taken[peer] += 1
            if here is not numbers:
                numbers.copy_(here)

        return wait

    def _post(self, memory: np.ndarray[Any, Any], peer: int, tag: int) -> int:
        self._count += 1
        self._posted[self._count] = Posted(self._comm.Irecv(memory, peer, tag), memory, peer)
        return self._count

    def _complete(self, number: int) -> None:
        """Wait for a receive; the memory of one that does not complete is kept for it."""
        posted = self._posted.get(number)
        if posted is None:
            self.check()
            raise PeerError("this message was given up after a failure: call the network anew.")
        self._wait(posted.request, posted.peer)
        del self._posted[number]

    def _wait(self, request: Any, peer: int) -> None:
        wait, tries = None, 0
        while not self._is_complete(request, peer):
            tries += 1
            if tries % 64 and tries <= self._spins:
                continue
            self._listen(peer)
            wait = wait or Wait(self, peer)
            if wait.is_over():
                self._lose(self.lost(peer))
            if tries > self._spins:
                time.sleep(min(self._pause, max(SLEEP, SHARE * wait.seconds)))

    def _is_complete(self, request: Any, peer: int) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._lose(
                f"rank {self.rank} of {self.size} waits for {self.task}, and rank {peer} sent "
                f"something else ({error})."
            )

    def _lose(self, reason: str) -> NoReturn:
        self.fail(reason)
        raise PeerError(reason)

    def _listen(self, peer: int) -> None:
        """Hear whether a rank failed, or the one that is waited for (any, if negative) left."""
        while self._beside.Iprobe(tag=ALARM):
            status = self._mpi.Status()
            kind, epoch, text = self._beside.recv(tag=ALARM, status=status)
            if kind == "failed":
                self._ahead.append((epoch, text))
            else:
                self._gone[status.source] = (time.monotonic(), text)
                if kind == "died":
                    self._ahead.append((self.epoch, text))
        if not self.broken:
            self._raise_alarm()
        gone = self._gone if peer < 0 else {peer: self._gone[peer]} if peer in self._gone else {}
        for moment, text in gone.values():
            if time.monotonic() - moment > GRACE:
                self._lose(text)

    def _raise_alarm(self) -> None:
        """Raise where a failure of this epoch was heard of; those of earlier ones are over."""
        heard = [text for epoch, text in self._ahead if epoch == self.epoch]
        self._ahead = [(epoch, text) for epoch, text in self._ahead if epoch > self.epoch]
        if heard:
            time.sleep(COURTESY)
            self.give_up(heard[0])
            raise PeerError(heard[0])

    def _mend(self) -> list[int]:
        self._cancel()
        for peer in self.others:
            mine = np.array([self.epoch, self._sent[peer], self.steps])
            self._leaving.append((self._beside.Isend(mine, peer, MEND), mine))
        every = [self.steps] * self.size
        told = {peer: self._told_by(peer) for peer in self.others}
        for peer, (_, sent, steps) in told.items():
            self._take_in(peer, sent)
            every[peer] = steps
        for request, _ in self._leaving:
            self._wait(request, -1)
        self._leaving = []
        self._heard.clear()
        return every

    def _told_by(self, peer: int) -> list[int]:
        """The epoch, number of messages and steps of a peer that gets over this failure.

        What was heard before this rank lost its patience with another one is kept.
        """
        while True:
            if peer not in self._heard:
                row = np.array([-1, 0, 0])
                self._heard[peer] = self._beside.Irecv(row, peer, MEND), row
            request, row = self._heard[peer]
            self._wait(request, peer)
            found: list[int] = row.tolist()
            if found[0] == self.epoch:
                return found
            del self._heard[peer]  # said again in vain, in an epoch that is over

    def _cancel(self) -> None:
        """Cancel every receive that is posted: nothing writes on its memory any more."""
        for posted in self._posted.values():
            posted.request.Cancel()
        for posted in self._posted.values():
            status = self._mpi.Status()
            posted.request.Wait(status)
            self._taken[posted.peer] += not status.Is_cancelled()
        self._posted.clear()

    def _take_in(self, peer: int, sent: int) -> None:
        """Receive what a peer has sent and nobody waits for any more."""
        wait = Wait(self, peer)
        while self._taken[peer] < sent:
            status = self._mpi.Status()
            message = self._comm.Improbe(peer, status=status)
            if message is None:
                self._listen(peer)
                if wait.is_over():
                    self._lose(self.lost(peer))
                time.sleep(SLEEP)
                continue
            memory = np.empty(status.Get_count(self._mpi.BYTE), dtype=np.uint8)
            message.Recv([memory, self._mpi.BYTE])
            self._taken[peer] += 1

    def _announce(self, reason: str) -> None:
        self._alarm("failed", reason)

    def farewell(self, failure: str) -> None:
        """At the end of the process, let those know who still wait for this rank, and why it ends.

        Those who hear of a failure stop at once, the others once messages have had time to come.
        """
        left = f"rank {self.rank} of {self.size} has ended, and is still waited for."
        self._alarm("died" if failure else "left", failure or left)

    def _alarm(self, kind: str, reason: str) -> None:
        if self._mpi.Is_finalized():
            return
        for peer in set(self.others) - set(self._gone):
            self._beside.isend((kind, self.epoch, reason), peer, ALARM)


def _is_crowded(near: Any) -> bool:
    """Whether the ranks of one computer are more than the cores that they may run on."""
    known = hasattr(os, "sched_getaffinity")
    own = os.sched_getaffinity(0) if known else range(os.cpu_count() or 1)
    cores: set[int] = set().union(*near.allgather(set(own)))
    ranks = near.size
    near.Free()
    return bool(ranks > len(cores))


def _bytes(numbers: Tensor) -> np.ndarray[Any, Any]:
    """A view of a tensor's memory; dtypes that NumPy lacks (bfloat16) travel as bytes as well."""
    found: np.ndarray[Any, Any] = numbers.detach().view(torch.uint8).numpy()
    return found
