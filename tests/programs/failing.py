"""A function whose backward pass raises, for the programs in which something fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise ValueError("no way back")
