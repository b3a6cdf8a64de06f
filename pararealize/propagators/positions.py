"""Positions: networks over ``[batch, channels, positions]`` in which none sees a later one."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, pad

from pararealize.ir.chain import TensorSpec
from pararealize.runtime.values.infinities import without_infinities

#: Positions, with its own, that one of a series is mapped from.
REACH = 3
#: Inner width of the branch, as a share of the narrower side.
NARROW = 4


@final
class PositionMap(nn.Module):
    """Means of ``ratio`` positions, mapped by themselves, beside them a narrow branch of three.

    ``[batch, c_in, t] -> [batch, c_out, ceil(t / ratio)]``, plus the state itself where shapes
    agree. Position i is made of those up to ``ratio`` i, as in causal convolutions of that stride:
    what is trained on whole series may write them one after another. Without ``bias`` it is
    positively homogeneous: no jump gives no correction.
    """

    guarded = False

    def __init__(self, before: int, after: int, ratio: int, *, bias: bool, skips: bool) -> None:
        super().__init__()
        narrow = max(1, min(before, after) // NARROW)
        self.ratio, self.skips = ratio, skips
        self.mix = nn.Conv1d(before, after, 1, bias=bias)
        self.compress = nn.Conv1d(before, narrow, 1, bias=bias)
        self.spread = nn.Conv1d(narrow, narrow, REACH, bias=bias)
        self.expand = nn.Conv1d(narrow, after, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The mapped state."""
        x = without_infinities(x, guarded=self.guarded)
        pooled = x if self.ratio == 1 else avg_pool1d(pad(x, (self.ratio - 1, 0)), self.ratio)
        inner = pad(torch.relu(self.compress(pooled)), (REACH - 1, 0))
        y: Tensor = self.mix(pooled) + self.expand(torch.relu(self.spread(inner)))
        return x + y if self.skips else y


def position_map(source: TensorSpec, target: TensorSpec, *, bias: bool) -> PositionMap | None:
    """The map of a series' shape to another's, or ``None`` where that has more positions."""
    (_, before, length), (_, after, left) = source.shape, target.shape
    ratio = max(1, math.ceil(length / left))
    if math.ceil(length / ratio) != left:
        return None
    return PositionMap(before, after, ratio, bias=bias, skips=source.shape == target.shape)
