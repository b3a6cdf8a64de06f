"""Modes: train and eval, as the original's own class sets them."""

from __future__ import annotations

from torch import nn

from pararealize.errors import RankError


def set_mode(serial: nn.Module, *, training: bool) -> None:
    """Call ``train`` or ``eval`` of the original, where its class has one of its own.

    As of a class that keeps a pretrained part in eval mode while the rest is trained.

    Raises:
        RankError: it looks at a part that lies on another rank.

    """
    serial.training = training
    kind = type(serial)
    if kind.train is nn.Module.train and kind.eval is nn.Module.eval:
        return
    try:
        serial.train() if training else serial.eval()
    except AttributeError as error:
        raise RankError(
            f"{kind.__name__}.{'train' if training else 'eval'} looks at what lies on another rank "
            f"({error}): have it look for parts that are there, for part in self.children()."
        ) from error
