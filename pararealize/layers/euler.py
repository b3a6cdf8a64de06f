"""Euler steps: layers of an ordinary differential equation, and chains of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import final

from torch import Tensor, nn


@final
class EulerStep(nn.Module):
    """Forward Euler step of x' = φ(x), ``y = x + dt * block(x)``; shapes are those of x.

    Haber and Ruthotto, "Stable Architectures for Deep Neural Networks" (arXiv:1705.03341).
    """

    def __init__(self, block: nn.Module, dt: float) -> None:
        super().__init__()
        self.block, self.dt = block, dt

    def forward(self, x: Tensor) -> Tensor:
        """The state a step later."""
        # Out of place: a residual layer is found by its sum, and blocks may give what they keep.
        later: Tensor = x + self.dt * self.block(x)
        return later

    def extra_repr(self) -> str:
        """The step size."""
        return f"dt={self.dt}"


def chain_of(steps: Iterable[EulerStep]) -> nn.Sequential:
    """The steps between two identities, so that the first and the last are as all others.

    A step that reads the network's input, or makes its output, is no part of a coarse chain.
    """
    named = {str(i): step for i, step in enumerate(steps)}
    return nn.Sequential(OrderedDict({"first": nn.Identity(), **named, "last": nn.Identity()}))
