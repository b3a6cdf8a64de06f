"""Readers: what needs the parameters of the whole network, and on a rank finds some of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import torch
from torch import nn

from pararealize.errors import RankError

#: Optimizers that add up over all parameters; others go through them one by one.
GLOBAL = (torch.optim.LBFGS,)

#: Functions of torch that take the norm over all gradients that they are given.
CLIPPING = "torch.nn.utils.clip_grad"


def watched(parameters: Iterator[nn.Parameter]) -> Iterator[nn.Parameter]:
    """A rank's parameters, unless who reads them needs all ranks'.

    A generator runs when it is read from, and the frame below its own is the reader's.

    Raises:
        RankError: it clips gradients, or is an optimizer that adds up over all parameters.

    """
    reader = sys._getframe(1)
    if reader.f_globals.get("__name__") == CLIPPING:
        raise RankError(
            f"torch.nn.utils.{reader.f_code.co_name} sees the gradients of one rank only, so that "
            "every rank would clip by another norm: write net.clip_grad_norm_(max_norm)."
        )
    if isinstance(reader.f_locals.get("self"), GLOBAL):
        raise unfit(reader)
    yield from parameters


def refuse_global_optimizers() -> None:
    """Raise where the network is called from the step of an optimizer that adds up over weights.

    Raises:
        RankError: it is.

    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "step" and isinstance(frame.f_locals.get("self"), GLOBAL):
            raise unfit(frame)
        frame = frame.f_back


def unfit(frame: FrameType) -> RankError:
    """The error of an optimizer, whose method this is."""
    name = type(frame.f_locals["self"]).__name__
    return RankError(
        f"{name} adds up over all parameters, and each rank would see its own only and take a step "
        "of its own length: use an optimizer that goes through parameters one by one, as "
        "torch.optim.AdamW(net.parameters()), or train net.to_serial() in one process."
    )
