"""What networks of tests call in another file than that of their forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

#: What was written here by code that a forward calls.
WRITTEN: list[Any] = []
LAST: Any = None


def halves(x: Any) -> Tensor:
    """The sum of both halves of a tensor, or of a pair."""
    if isinstance(x, (list, tuple)):
        return x[0] + x[1]
    if not isinstance(x, Tensor):
        raise TypeError(type(x))
    return rearrange(x, "b (two d) -> b two d", two=2).sum(1).repeat(1, len(x.shape))


def swapped(x: Tensor) -> Tensor:
    """Both halves, the second first."""
    return rearrange(x, "b (two d) -> b two d", two=2).flip(1).flatten(1)


class Base(nn.Module):
    """Runs its blocks around what a subclass's forward does not see."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.scales = nn.Parameter(torch.linspace(0.0, 1.0, 4))

    def mixed(self, x: Any) -> Tensor:
        """By the kind of what it is given."""
        return self.kinds(x) + self.mean

    def kinds(self, x: Any) -> Tensor:
        """A tensor's halves, changed over."""
        return halves(x) if isinstance(x, Tensor) else halves(x[0])

    @property
    def mean(self) -> Tensor:
        """Of weights."""
        return reduce(self.scales, "d -> 1", "mean")


class Mixin:
    """A method of no module."""

    def pooled(self, x: Tensor) -> Tensor:
        """With the mean of the features."""
        return x + reduce(x, "b d -> b 1", "mean") * len(x.shape)


class Policy:
    """An object that a module holds."""

    def __call__(self, x: Tensor) -> Tensor:
        """The halves changed over, of tensors."""
        return self.swapped(x) if isinstance(x, Tensor) else x

    def swapped(self, x: Tensor) -> Tensor:
        """Both halves."""
        return swapped(x)


def checked(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A forward that asks what it is given."""

    @functools.wraps(forward)
    def wrapper(self: nn.Module, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(type(x))
        return rearrange(forward(self, x), "b d -> b d")

    return wrapper


def noted(x: Tensor) -> Tensor:
    """Writes into a list of this file."""
    WRITTEN.append(tuple(x.shape))
    return x


class Noting(nn.Module):
    """Writes on globals of this file by a method."""

    def note(self, x: Tensor) -> None:
        """Keep the last one."""
        global LAST  # noqa: PLW0603
        LAST = torch.tensor(x.shape)
