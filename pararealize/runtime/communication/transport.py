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

from pararealize.errors import DisagreementError, PararealizeError, PeerError

#: What a rank does with all others unless it says more.
TOGETHER = "takes a step of compiling, saving, loading, calibrating, clipping or collecting"

#: Seconds after which a rank that waits takes its peer for lost; slow loaders of data need many.
PATIENCE = 600.0


class Transport(ABC):
    """Point-to-point messages between the ranks of some networks, and the few that all share.

    Tensors travel as their numbers alone: sender and receiver know shape and dtype. Messages of
    one tag between two ranks arrive in the order in which they were sent.

    What fails on one rank breaks the transport on all: whatever is under way raises, and the next
    call begins by getting over it together, after which nothing of what was under way is left.

    Args:
        rank: this process's place, from 0.
        size: number of ranks.
        patience: seconds to wait for a message.

    Attributes:
        networks: networks that these ranks have begun to compile.
        steps: calls of networks that have begun here.
        epoch: failures that the ranks have got over.
        broken: why nothing can be sent before they have got over one.
        position: the subnetwork whose backward pass runs.
        task: what is waited for now, for messages.

    Messages and bytes sent are counted.
    """

    #: Whether receives may be posted long before they are waited for.
    early = True

    def __init__(self, rank: int, size: int, patience: float = PATIENCE) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self.networks, self.steps, self.epoch, self.broken = 0, 0, 0, ""
        self.position = ""
        self.task: object = "a message"
        self._instead = ""
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
    def begin_gather(
        self, numbers: Sequence[int], doing: str = TOGETHER
    ) -> Callable[[], list[list[int]]]:
        """Start to collect as many integers from every rank; the result waits for them.

        ``doing`` says what this rank collects them for, should others do something else.
        """

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every rank, by rank; all call it."""

    @abstractmethod
    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all ranks; all call it."""

    @abstractmethod
    def _announce(self, reason: str) -> None:
        """Wake the other ranks wherever they wait, and let them know why."""

    @abstractmethod
    def _mend(self) -> list[int]:
        """Complete or cancel what is under way, on all ranks; their numbers of steps, by rank."""

    @property
    def others(self) -> list[int]:
        """The other ranks."""
        return [rank for rank in range(self.size) if rank != self.rank]

    def fail(self, reason: str) -> None:
        """Tell the other ranks that this one cannot go on with what is under way."""
        if not self.broken:
            self.broken = reason
            self._announce(reason)

    def give_up(self, reason: str) -> None:
        """Go on with nothing that is under way; all ranks know by themselves that they have to."""
        self.broken = self.broken or reason

    def refuse(self, error: Exception) -> None:
        """Tell the others, who may have begun a call, of one that this rank cannot even begin."""
        try:
            self.step()
        except PeerError:  # nobody waits for it, and its own error says more
            return
        who, kind = f"rank {self.rank} of {self.size}", type(error).__name__
        self.fail(f"{who} was called as the network cannot be ({kind}: {error}).")

    @contextmanager
    def waiting_at_most(self, seconds: float, reason: str) -> Iterator[None]:
        """A block in which this rank waits no longer, and then says that it failed for a reason."""
        before, self.patience = self.patience, min(seconds, self.patience)
        self._instead = reason
        try:
            yield
        finally:
            self.patience, self._instead = before, ""

    def step(self) -> int:
        """Begin a call of a network; its number, the same on all ranks.

        Raises:
            PeerError: the others have begun this call and gave it up, as the one before failed
                here; the next one will be theirs.

        """
        self.steps += 1
        every, reason = self.mend()
        most = max(every, default=self.steps)
        if self.steps < most:
            self.steps = most - 1
            raise PeerError(
                f"rank {self.rank} of {self.size} leaves this call out, which the others gave up "
                f"when they heard of a failure in the one before: {reason}"
            )
        return self.steps

    def mend(self) -> tuple[list[int], str]:
        """Get over a failure, where there was one: all ranks do, whatever they begin next.

        Returns the steps of all ranks, and what had failed.
        """
        reason = self.broken
        if not reason:
            return [], ""
        self.task = "getting over a failure, which all ranks do in their next call"
        every = self._mend()
        self.epoch, self.broken, self.position = self.epoch + 1, "", ""
        return every, reason

    def check(self) -> None:
        """Raise where something has failed that the ranks have not got over.

        Raises:
            PeerError: says what.

        """
        if self.broken:
            raise PeerError(f"{self.broken} What was under way is given up: call the network anew.")

    def alone(self) -> AbstractContextManager[Any]:
        """A block that ranks of one process run one after another."""
        return nullcontext()

    def farewell(self, failure: str) -> None:  # noqa: B027  some engines notice by themselves
        """At the end of the process, let those know who still wait for this rank, and why it ends.

        ``failure`` is empty where the process ends well.
        """

    def send(self, numbers: Tensor, peer: int, tag: int) -> None:
        """Start to send a tensor of one axis, which must not change before it has left."""
        self.check()
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

    def lost(self, peer: int) -> str:
        """What there is to say of a peer (of any, if negative) that does not answer."""
        if self._instead:
            return self._instead
        who = f"rank {peer}" if peer >= 0 else "the other ranks"
        return (
            f"rank {self.rank} of {self.size} waited {self.patience:.0f} s for {who} "
            f"({self.task}), which did not answer: every rank has to call the network, and its "
            "backward pass, equally often. Where that takes longer, write "
            "comm=pararealize.connect(comm, patience=SECONDS)."
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
    error = getattr(sys, "last_value", None)
    if error is not None and this.position:
        who = f"rank {this.rank} of {this.size}"
        print(f"{who} failed in the backward pass of {this.position}.", file=sys.stderr)
    this.farewell("" if error is None else this.broken or stopped(this, error))


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
    except (PeerError, DisagreementError):
        raise
    except PararealizeError as error:
        if transport is None:
            raise
        problem = error
    except BaseException as error:
        if transport is not None:
            transport.fail(stopped(transport, error))
        raise
    if transport is not None:
        transport.exchange(problem=problem)


def stopped(transport: Transport, error: BaseException) -> str:
    """What the other ranks hear of an error that is none of this package's."""
    who, (first, *_) = f"rank {transport.rank} of {transport.size}", [*str(error).splitlines(), ""]
    said = f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
    return f"{who} stopped; its own message says why ({said})."
