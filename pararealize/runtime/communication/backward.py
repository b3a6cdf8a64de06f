"""Backward: what ranks agree about before a backward pass, and which kind of pass it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from pararealize.errors import DisagreementError, RankError
from pararealize.runtime.communication.fingerprint import fingerprint, other
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import Transport


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
    tied: Iterable[Tensor],
    output: Sequence[Tensor],
) -> bool:
    """Go on when all ranks have come to the backward pass of a call.

    Returns whether it finds the gradients of everything, so that nobody was asked for some of
    them. The ``anchor`` is a leaf that nobody asks for, ``tied`` are weights that other ranks hold
    as well, ``output`` those gradients of the network's output that are compared.

    Raises:
        DisagreementError: another rank does something else, or takes another loss.
        RankError: some gradients are asked for, and one of a tied weight among them.

    """
    everything = is_asked_for(anchor)
    chosen = "" if everything else ", to the tensors asked for,"
    asked = not everything and any(is_asked_for(weight) for weight in tied)
    found = 0
    if any(bool(gradient.any()) for gradient in output):
        found = fingerprint(output)
    rows = agree(transport, f"goes back{chosen} through call {call}", int(asked), found)
    rank = next((rank for rank, (is_tied, _) in enumerate(rows) if is_tied), None)
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
    return everything
