"""Backward: what ranks agree about before a backward pass, and which kind of pass it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from pararealize.errors import DisagreementError, RankError
from pararealize.runtime.communication.fingerprint import fingerprint, other
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.tied_parameters import Copied
from pararealize.runtime.communication.transport import Transport

#: What a rank says of itself as a backward pass begins: it asks for the gradient of a weight that
#: lies on several ranks; it has such weights, and they are to be compared.
ASKED, COPIES = 1, 2


def is_asked_for(leaf: Tensor) -> bool:
    """Whether the backward pass under way finds the gradient of a leaf, which is in its graph."""
    try:
        return torch._C._will_engine_execute_node(get_gradient_edge(leaf).node)
    except RuntimeError:  # of a leaf that torch.autograd.grad was called with
        return True


def agree_on_backward(
    transport: Transport,
    call: int,
    anchor: Tensor,
    copies: Mapping[Copied, Tensor],
    output: Sequence[Tensor],
) -> bool:
    """Go on when all ranks have come to the backward pass of a call.

    Returns whether it finds the gradients of everything, so that nobody was asked for some of
    them. The ``anchor`` is a leaf that nobody asks for, ``copies`` are weights that other ranks
    hold as well, ``output`` those gradients of the network's output that are compared.

    Raises:
        DisagreementError: another rank does something else, or takes another loss.
        RankError: some gradients are asked for, and one of a tied weight among them; or the copies
            of such a weight have become different.

    """
    everything = is_asked_for(anchor)
    chosen = "" if everything else ", to the tensors asked for,"
    asked = not everything and any(is_asked_for(weight) for weight in copies.values())
    found = 0
    if any(bool(gradient.any()) for gradient in output):
        found = fingerprint(output)
    flags = ASKED * asked + COPIES * bool(copies and output)
    rows = agree(transport, f"goes back{chosen} through call {call}", flags, found)
    rank = next((rank for rank, (flags, _) in enumerate(rows) if flags & ASKED), None)
    if rank is not None:
        raise RankError(
            f"rank {rank} asks for the gradient of one weight that lies on several ranks, and a "
            "pass to chosen tensors finds that rank's share of it only: call loss.backward() "
            "without inputs=, and read weight.grad."
        )
    rank = other([number for _, number in rows])
    if rank is not None:
        raise DisagreementError(
            f"the gradient of the output on rank {rank} is another one than on rank 0: every rank "
            "has to take the same loss of the output, with the same targets, in the same order."
        )
    if any(flags & COPIES for flags, _ in rows):
        _check_copies(transport, copies)
    return everything


def _check_copies(transport: Transport, copies: Mapping[Copied, Tensor]) -> None:
    """Raise where the copies of a weight on several ranks are no longer equal; all call it."""
    every = transport.gather({key: fingerprint([weight]) for key, weight in copies.items()})
    for key in dict.fromkeys(chain(*every)):
        ranks, found = key[0], [row[key] for row in every if key in row]
        place = other(found)
        if place is not None:
            raise RankError(
                f"a weight that lies on the ranks {ranks} has become another one on rank "
                f"{ranks[place]}: give all its copies the same optimizer, with the same options, "
                "and load checkpoints on every rank."
            )
