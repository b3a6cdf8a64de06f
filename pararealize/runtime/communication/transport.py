"""Transport: how the ranks of one network reach each other."""

from __future__ import annotations

import atexit
import pickle
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pararealize.errors import PararealizeError, PeerError

#: Seconds after which a rank that waits takes its peer for lost.
PATIENCE = 600.0


class Transport(ABC):
    """Point-to-point messages between the ranks of one network, and the few that all share.

    Tensors travel as their numbers alone: sender and receiver know shape and dtype. Messages of
    one tag between two ranks arrive in the order in which they were sent.

    Args:
        rank: this process's place, from 0.
        size: number of ranks.
        patience: seconds to wait for a message.

    ``position`` is the subnetwork whose backward pass runs; messages and bytes sent are counted.
    """

    #: Whether receives may be posted long before they are waited for.
    early = True

    def __init__(self, rank: int, size: int, patience: float = PATIENCE) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self.steps = 0
        self.position = ""
        self.sent_bytes = 0
        self.sent_messages = 0
        atexit.register(_farewell, weakref.ref(self))

    @abstractmethod
    def _send(self, numbers: Tensor, peer: int, tag: int) -> None:
        """Start to send a tensor of one axis; it is kept until it has left."""

    @abstractmethod
    def receive(self, numbers: Tensor, peer: int, tag: int) -> Callable[[], None]:
        """Start to receive into a tensor of one axis; the result waits for it."""

    @abstractmethod
    def begin_gather(self, numbers: Sequence[int]) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers from every rank; the result waits for them."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank, by rank; all call it."""

    @abstractmethod
    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all ranks; all call it."""

    def fail(self, reason: str) -> None:  # noqa: B027  most engines end all ranks by themselves
        """Tell the other ranks that this one cannot go on."""

    def alone(self) -> AbstractContextManager[Any]:
        """A block that ranks of one process run one after another."""
        return nullcontext()

    def farewell(self, failed: bool) -> None:  # noqa: B027  most engines notice by themselves
        """At the end of the process, let those know who still wait for this rank."""

    def send(self, numbers: Tensor, peer: int, tag: int) -> None:
        """Start to send a tensor of one axis, which must not change before it has left."""
        self.sent_messages += 1
        self.sent_bytes += numbers.numel() * numbers.element_size()
        self._send(numbers, peer, tag)

    def send_object(self, value: Any, peer: int, tag: int) -> None:
        """Send a picklable value."""
        content = bytearray(pickle.dumps(value))
        self._send(torch.tensor([len(content)]), peer, tag)
        self._send(torch.frombuffer(content, dtype=torch.uint8), peer, tag)

    def receive_object(self, peer: int, tag: int) -> Any:
        """Wait for a value that :meth:`send_object` sent."""
        length = torch.zeros(1, dtype=torch.int64)
        self.receive(length, peer, tag)()
        content = torch.empty(int(length), dtype=torch.uint8)
        self.receive(content, peer, tag)()
        return pickle.loads(content.numpy().tobytes())

    def exchange(self, value: Any = None, problem: Exception | None = None) -> list[Any]:
        """A value of every rank where none has a problem, else all raise; all call it.

        Raises:
            Exception: this rank's own problem.
            PeerError: another rank's.

        """
        text = None if problem is None else f"{type(problem).__name__}: {problem}"
        rows = self.gather((text, value))
        if problem is not None:
            raise problem
        for rank, (found, _) in enumerate(rows):
            if found is not None:
                raise PeerError(f"rank {rank} of {self.size} could not go on: {found}")
        return [value for _, value in rows]

    def lost(self, peer: int) -> PeerError:
        """The error of a peer that does not answer."""
        return PeerError(
            f"rank {self.rank} waited {self.patience:.0f} s for rank {peer}, which did not answer: "
            "every rank has to call the network, and its backward pass, equally often."
        )

    def __deepcopy__(self, _memo: dict[int, Any]) -> Transport:
        return self  # copies of a network talk over the same lines

    def __reduce__(self) -> Any:
        raise PeerError(
            "a network on ranks cannot be pickled, because its communicator cannot: write it with "
            "net.save(path), or pickle net.to_serial()."
        )


def _farewell(transport: weakref.ref[Transport]) -> None:
    """The process ends; where an error in the backward pass ends it, say where that was."""
    this = transport()
    if this is None:
        return
    failed = getattr(sys, "last_value", None) is not None
    if failed and this.position:
        who = f"rank {this.rank} of {this.size}"
        print(f"{who} failed in the backward pass of {this.position}.", file=sys.stderr)
    this.farewell(failed)


@contextmanager
def together(transport: Transport | None) -> Iterator[None]:
    """All ranks come out of the block, or all raise; each has to come to its end.

    Raises:
        PararealizeError: this rank's own problem.
        PeerError: another rank's.

    """
    problem = None
    try:
        yield
    except PeerError:
        raise
    except PararealizeError as error:
        if transport is None:
            raise
        problem = error
    if transport is not None:
        transport.exchange(problem=problem)
