"""MPI: ranks that reach each other through an mpi4py communicator."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from pararealize.errors import PeerError, RankError
from pararealize.runtime.communication.transport import PATIENCE, Transport

#: The tag on which ranks hear that another one failed or left; data have higher tags.
ALARM = 0

#: A waiting rank asks again at once for a while (most messages come soon), then sleeps between.
SPINS, SLEEP = 2000, 5e-5

#: Seconds that messages may still take after their sender has left.
GRACE = 2.0


@final
class MPITransport(Transport):
    """Messages over a duplicate of an mpi4py communicator.

    While it waits, a rank listens for the failure of others, and Python handles signals. All ranks
    of the communicator make one.

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
        self._comm = communicator.Dup()
        super().__init__(self._comm.rank, self._comm.size, patience)
        self._leaving: list[tuple[Any, Tensor | np.ndarray[Any, Any]]] = []
        self._gone: dict[int, tuple[float, str]] = {}
        self._alarmed = False

    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        numbers = numbers.cpu()
        self._leaving = [(r, kept) for r, kept in self._leaving if not r.Test()]
        self._leaving.append((self._comm.Isend(_bytes(numbers), peer, tag + 1), numbers))

    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""
        here = numbers if numbers.device.type == "cpu" else torch.empty_like(numbers, device="cpu")
        request = self._comm.Irecv(_bytes(here), peer, tag + 1)

        def wait() -> None:
            self._wait(request, peer)
            if here is not numbers:
                numbers.copy_(here)

        return wait

    def _wait(self, request: Any, peer: int) -> None:
        begin, tries = time.monotonic(), 0
        while not request.Test():
            tries += 1
            if tries % 64 == 0 or tries > SPINS:
                self._listen(peer)
                if time.monotonic() - begin > self.patience:
                    request.Cancel()
                    raise self.lost(peer)
            if tries > SPINS:
                time.sleep(SLEEP)

    def _listen(self, peer: int) -> None:
        """Hear whether a rank failed, or the one that is waited for (any, if negative) left."""
        while self._comm.Iprobe(tag=ALARM):
            status = self._mpi.Status()
            kind, text = self._comm.recv(tag=ALARM, status=status)
            self._gone[status.source] = (time.monotonic(), text)
            if kind == "failed":
                raise PeerError(text)
        gone = self._gone if peer < 0 else {peer: self._gone[peer]} if peer in self._gone else {}
        for moment, text in gone.values():
            if time.monotonic() - moment > GRACE:
                raise PeerError(text)

    def begin_gather(self, numbers: Sequence[int]) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers from every rank; the result waits for them."""
        mine = np.array(numbers, dtype=np.int64)
        every = np.empty((self.size, len(numbers)), dtype=np.int64)
        request = self._comm.Iallgather(mine, every)

        def wait() -> list[list[int]]:
            self._wait(request, -1)
            found: list[list[int]] = every.tolist()
            return found

        return wait

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank, by rank; all call it."""
        content = np.frombuffer(pickle.dumps(value), dtype=np.uint8)
        counts = [row[0] for row in self.begin_gather([content.size])()]
        every = np.empty(sum(counts), dtype=np.uint8)
        self._wait(self._comm.Iallgatherv(content, [every, counts]), -1)
        parts = np.split(every, np.cumsum(counts)[:-1])
        return [pickle.loads(part.tobytes()) for part in parts]

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all ranks; all call it."""
        exact = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        total = tensor.detach().to("cpu", exact).contiguous().clone()
        self._wait(self._comm.Iallreduce(self._mpi.IN_PLACE, total.numpy()), -1)
        return total.to(tensor.device, tensor.dtype)

    def fail(self, reason: str) -> None:
        """Tell the other ranks that this one cannot go on."""
        self._alarm("failed", reason)

    def farewell(self, failed: bool) -> None:
        """At the end of the process, let those know who still wait for this rank."""
        who = f"rank {self.rank} of {self.size}"
        if failed:
            self._alarm("failed", f"{who} stopped; its own message says why.")
        else:
            self._alarm("left", f"{who} has ended, and is still waited for.")

    def _alarm(self, kind: str, reason: str) -> None:
        if self._alarmed or self._mpi.Is_finalized():
            return
        self._alarmed = True
        for peer in set(range(self.size)) - {self.rank, *self._gone}:
            self._comm.isend((kind, reason), peer, ALARM)


def _bytes(numbers: Tensor) -> np.ndarray[Any, Any]:
    """A view of a tensor's memory; dtypes that NumPy lacks (bfloat16) travel as bytes as well."""
    found: np.ndarray[Any, Any] = numbers.detach().view(torch.uint8).numpy()
    return found
