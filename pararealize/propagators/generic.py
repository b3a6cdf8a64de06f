"""Generic networks between two shapes: pooling and small convolutions, or low-rank linear maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.ir.chain import State, TensorSpec
from pararealize.propagators.leafwise import leafwise
from pararealize.propagators.positions import PositionMap, position_map
from pararealize.runtime.values.infinities import without_infinities

#: Axes of a series: batch, channels and positions.
SERIES = 3
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
#: Inner width of low-rank maps and guesses, as a share of the narrower side.
RANK_SHARE = 4


@final
class Resize(nn.Module):
    """Average pooling, or nearest-neighbour enlargement, by the ratio of two sizes.

    ``[batch, channels, *before] -> [batch, channels, *after]``; where the ratio is no whole number
    the result has the sizes ``after`` whatever the input's.
    """

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        self.after = after
        self.down = _ratio(before, after)
        self.up = _ratio(after, before)

    def forward(self, x: Tensor) -> Tensor:
        """The resized state."""
        if self.down is None and self.up is not None:
            for axis, factor in enumerate(self.up, start=2):
                x = x.repeat_interleave(factor, dim=axis)
            return x
        if self.down is not None and all(size == 1 for size in self.down):
            return x
        kind = "adaptive_avg_pool" if self.down is None else "avg_pool"
        pool = getattr(functional, f"{kind}{len(self.after)}d")
        resized: Tensor = pool(x, self.down or self.after)
        return resized

    def extra_repr(self) -> str:
        """The ratio."""
        return f"down={self.down}, up={self.up}"


def _ratio(large: tuple[int, ...], small: tuple[int, ...]) -> tuple[int, ...] | None:
    if all(a >= b > 0 and a // math.ceil(a / b) == b for a, b in zip(large, small, strict=True)):
        return tuple(math.ceil(a / b) for a, b in zip(large, small, strict=True))
    return None


@final
class PooledBottleneck(nn.Module):
    """Pooling and a 1×1 convolution, beside them a narrow 1×1, 3×3, 1×1 branch with rectifiers.

    ``[batch, c_in, *before] -> [batch, c_out, *after]``, plus the state itself where shapes agree.
    Without ``bias`` it is positively homogeneous: no jump gives no correction.
    """

    guarded = False

    def __init__(self, source: TensorSpec, target: TensorSpec, *, bias: bool) -> None:
        super().__init__()
        self.resize = Resize(source.shape[2:], target.shape[2:])
        convolution = CONVOLUTIONS[len(source.shape) - 2]
        before, after = source.shape[1], target.shape[1]
        narrow = max(1, min(before, after) // RANK_SHARE)
        self.mix = convolution(before, after, 1, bias=bias)
        self.compress = convolution(before, narrow, 1, bias=bias)
        self.spread = convolution(narrow, narrow, 3, padding=1, bias=bias)
        self.expand = convolution(narrow, after, 1, bias=bias)
        self.skips = source.shape == target.shape

    def forward(self, x: Tensor) -> Tensor:
        """The mapped state."""
        x = without_infinities(x, guarded=self.guarded)
        pooled = self.resize(x)
        branch = torch.relu(self.spread(torch.relu(self.compress(pooled))))
        y: Tensor = self.mix(pooled) + self.expand(branch)
        return x + y if self.skips else y


@final
class LowRank(nn.Module):
    """W₂ W₁ x on the last axis, rank a quarter of the narrower side; plus x where shapes agree.

    ``[..., f_in] -> [..., f_out]``. Without ``bias`` the map is linear.
    """

    guarded = False

    def __init__(self, source: TensorSpec, target: TensorSpec, *, bias: bool) -> None:
        super().__init__()
        before, after = source.shape[-1], target.shape[-1]
        rank = max(1, min(before, after) // RANK_SHARE)
        self.compress = nn.Linear(before, rank, bias=bias)
        self.expand = nn.Linear(rank, after, bias=bias)
        self.skips = source.shape == target.shape

    def forward(self, x: Tensor) -> Tensor:
        """The mapped state."""
        x = without_infinities(x, guarded=self.guarded)
        y: Tensor = self.expand(self.compress(x))
        return x + y if self.skips else y


@final
class PerSample(nn.Module):
    """One number for each sample, mapped by itself: ``[batch] -> [batch]``."""

    def __init__(self, source: TensorSpec, target: TensorSpec, *, bias: bool) -> None:
        super().__init__()
        before, after = (TensorSpec((*s.shape, 1), s.dtype) for s in (source, target))
        self.map = LowRank(before, after, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The mapped numbers."""
        y: Tensor = self.map(x.unsqueeze(-1)).squeeze(-1)
        return y


@final
class PooledLinear(nn.Module):
    """Global average of a map, then a low-rank linear map: ``[b, c, *size] -> [b, features]``."""

    guarded = False

    def __init__(self, source: TensorSpec, target: TensorSpec, *, bias: bool) -> None:
        super().__init__()
        self.linear = LowRank(TensorSpec(source.shape[:2], source.dtype), target, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The mapped state."""
        x = without_infinities(x, guarded=self.guarded)
        y: Tensor = self.linear(x.flatten(2).mean(2))
        return y


def guard(module: nn.Module) -> None:
    """Let the generic networks in a module look for infinities wherever they run."""
    for part in module.modules():
        if isinstance(part, (PooledBottleneck, LowRank, PooledLinear, PositionMap)):
            part.guarded = True


def generic_coarse(
    source: State,
    target: State,
    *,
    bias: bool,
    passed: Sequence[int | None] = (),
    series: bool = False,
    reads_all: bool = False,
) -> nn.Module | None:
    """A small network from one state's shapes to another's, or ``None`` where none is known.

    ``passed`` says of every leaf of the target which one of the source it is, if it is any, and
    ``series`` that leaves of three axes are ``[batch, channels, positions]``. With ``reads_all``
    every leaf of the source that can be mapped is read.
    """
    if not source or not target:
        return None
    known = partial(_map_leaf, bias=bias, series=series)
    return leafwise(source, target, known, passed, reads_all=reads_all)


def _map_leaf(
    source: TensorSpec, target: TensorSpec, *, bias: bool, series: bool
) -> nn.Module | None:
    before, after = len(source.shape), len(target.shape)
    empty = not after or 0 in (*source.shape, *target.shape)
    real = source.dtype.is_floating_point and target.dtype.is_floating_point
    if not real or empty or source.shape[:1] != target.shape[:1]:
        return None  # no numbers or no axes, or an axis was merged with the batch
    if series and before == after == SERIES:
        return position_map(source, target, bias=bias)
    if before == after and before - 2 in CONVOLUTIONS and is_map(source, target):
        return PooledBottleneck(source, target, bias=bias)
    if before == after and source.shape[:-1] == target.shape[:-1]:
        return (LowRank if before > 1 else PerSample)(source, target, bias=bias)
    if after == 2 and before - 2 in CONVOLUTIONS:
        return PooledLinear(source, target, bias=bias)
    return None


def is_map(source: TensorSpec, target: TensorSpec) -> bool:
    """Axis 1 holds channels rather than a sequence: always for images and volumes."""
    return len(source.shape) > 3 or source.shape[1] != target.shape[1]
