"""Shared slices: which slices of time a rank advances, and what all ranks know of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pararealize.errors import DisagreementError, PeerError, RankError
from pararealize.runtime.communication.fingerprint import (
    check_same_batch,
    fingerprint,
    is_compared,
    other,
)
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import Transport, stopped

#: Of what slices know of each other: apart from the tags of states, rows and sums.
TAG = 2**27 + 8


@final
@dataclass(frozen=True)
class Share:
    """The slices ``begin`` to ``end`` of ``count``, which this rank advances."""

    begin: int
    end: int
    count: int
    transport: Transport | None = None

    @classmethod
    def of(cls, transport: Transport | None, count: int) -> Share:
        """A rank's share; with fewer slices than ranks all do everything."""
        if transport is None or count < transport.size:
            return cls(0, count, count)
        return cls(*_bounds(transport, count, transport.rank), count, transport)

    @property
    def own(self) -> slice:
        """Where this rank's slices are among all."""
        return slice(self.begin, self.end)

    def upto(self, end: int) -> int:
        """How many of the first ``end`` slices are this rank's."""
        return min(max(end - self.begin, 0), self.end - self.begin)

    def gather(self, own: Tensor) -> Tensor:
        """What all ranks have of their slices, ``[slices, ...]``, in order."""
        if self.transport is None:
            return own
        return _gathered(self.transport, own, self.count, 1)

    def largest(self, own: Tensor) -> Tensor:
        """The largest of a number of every rank."""
        if self.transport is None:
            return own
        return _gathered(self.transport, own.view(1), self.transport.size, 1).max()

    def decide(self, done: bool) -> bool:
        """What rank 0 found: machines of two kinds may round to either side of a tolerance."""
        if self.transport is None:
            return done
        return bool(self.transport.begin_gather([int(done)], "sweeps over slices of time")()[0][0])


def _bounds(transport: Transport, count: int, rank: int) -> tuple[int, int]:
    return count * rank // transport.size, count * (rank + 1) // transport.size


def _gathered(transport: Transport, own: Tensor, count: int, each: int, most: int = 0) -> Tensor:
    """Rows of all ranks, ``each`` for one of ``count`` pieces and at most ``most``."""
    ends = [tuple(each * at for at in _bounds(transport, count, r)) for r in range(transport.size)]
    rows = most or each * count
    whole = own.new_zeros(rows, *own.shape[1:])
    places = [slice(min(begin, rows), min(end, rows)) for begin, end in ends]
    whole[places[transport.rank]] = own
    if not transport.early:  # messages that run in their order could wait for one another
        return transport.sum(whole)
    transport.task = "what the others found of their slices of time"
    waits = [transport.receive(whole[places[r]].view(-1), r, TAG) for r in transport.others]
    numbers = own.detach().contiguous().view(-1)
    for rank in transport.others:
        transport.send(numbers, rank, TAG)
    for wait in waits:
        wait()
    return whole


@final
class Sharing:
    """One call of a recurrence that ranks share: all give the same x and get the same states."""

    def __init__(self, transport: Transport, call: int) -> None:
        self.transport, self.call = transport, call

    @classmethod
    def begin(
        cls, transport: Transport, x: Tensor, hidden: Tensor, weights: Sequence[Tensor], said: str
    ) -> Sharing:
        """Go on when all ranks have come to this call, with the same tensors.

        Raises:
            DisagreementError: another rank does something else, or has another x or hidden state.
            RankError: another rank has other weights.

        """
        call = transport.step()
        wanted = [t.requires_grad and torch.is_grad_enabled() for t in (x, hidden, *weights)]
        looks = ", ".join(f"{list(t.shape)} {t.dtype}" for t in (x, hidden))
        found = (0, 0)
        if is_compared(call):
            found = fingerprint([x, hidden]), fingerprint(weights)
        text = f"calls {said} with {looks}, gradients of {[int(w) for w in wanted]}"
        rows = agree(transport, text, *found)
        try:
            check_same_batch([one for one, _ in rows])
        except DisagreementError as error:  # all ranks have found it
            transport.give_up(str(error))
            raise
        _check_weights(transport, [two for _, two in rows])
        return cls(transport, call)

    def alike(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors, whose gradients are sums of those of all ranks."""
        asked = [t for t in tensors if t.requires_grad] if torch.is_grad_enabled() else []
        if not asked:
            return list(tensors)
        found = iter(_Alike.apply(self, *asked))  # type: ignore[no-untyped-call]
        return [next(found) if t.requires_grad else t for t in tensors]

    def joined(self, own: Tensor, count: int, steps: int, length: int) -> Tensor:
        """The states of all times ``[length, ...]`` of those of every rank's ``count`` slices."""
        states: Tensor = _Joined.apply(self, own, count, steps, length)  # type: ignore[no-untyped-call]
        return states


@contextmanager
def told(transport: Transport | None, doing: str) -> Iterator[None]:
    """A block whose errors the other ranks hear of, as they wait for what it would send."""
    try:
        yield
    except (PeerError, DisagreementError):
        raise
    except BaseException as error:
        if transport is not None:
            error.add_note(f"on rank {transport.rank} of {transport.size}, {doing}")
            transport.fail(stopped(transport, error))
        raise


def _check_weights(transport: Transport, fingerprints: Sequence[int]) -> None:
    rank = other(fingerprints)
    if rank is None:
        return
    problem = RankError(
        f"the step has other weights on rank {rank} than on rank 0: ranks that share a recurrence "
        "hold equal copies of it. Write torch.manual_seed(0) on every rank before it is made, load "
        "checkpoints on every rank, and give all of them the same optimizer."
    )
    transport.give_up(str(problem))
    raise problem


@final
class _Alike(torch.autograd.Function):
    """Tensors that all ranks hold, each of which finds a share of their gradients."""

    @staticmethod
    def forward(ctx: Any, sharing: Sharing, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.sharing = sharing
        # No views: a change of a weight before its gradient is then autograd's usual error.
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        sums = ctx.sharing.transport.sum(flat).split([g.numel() for g in gradients])
        return None, *(s.view(g.shape) for s, g in zip(sums, gradients, strict=True))


@final
class _Joined(torch.autograd.Function):
    """Times of all ranks, of those of each; a gradient that all have counts where they are."""

    @staticmethod
    def forward(
        ctx: Any, sharing: Sharing, own: Tensor, count: int, steps: int, length: int
    ) -> Tensor:
        transport = sharing.transport
        begin, _ = _bounds(transport, count, transport.rank)
        ctx.sharing, ctx.place = sharing, slice(begin * steps, begin * steps + len(own))
        return _gathered(transport, own, count, steps, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sharing, found = ctx.sharing, 0
        if is_compared(sharing.call) and bool(gradient.any()):
            found = fingerprint([gradient])
        text = f"goes back through call {sharing.call} of a recurrence"
        rank = other([one for one, _ in agree(sharing.transport, text, found)])
        if rank is not None:
            problem = DisagreementError(
                f"the gradient of the states on rank {rank} is another one than on rank 0: every "
                "rank has to take the same loss of them, with the same targets."
            )
            sharing.transport.give_up(str(problem))
            raise problem
        return None, gradient[ctx.place], None, None, None
