"""Parameter-free: the identity between states of different shapes, by pooling and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn
from torch.nn import functional

from pararealize.ir.chain import State, TensorSpec
from pararealize.propagators.generic import Resize
from pararealize.propagators.leafwise import leafwise


@final
class ParameterFree(nn.Module):
    """The identity between two shapes: average pooling, channels cut off or padded with zeros.

    ``[batch, c_in, *before] -> [batch, c_out, *after]``, as the parameter-free shortcuts of He et
    al. (arXiv 1512.03385, option A); a map becomes a vector ``[batch, c_out]`` by its mean.
    """

    def __init__(self, source: TensorSpec, target: TensorSpec) -> None:
        super().__init__()
        self.channels = target.shape[1] - source.shape[1]
        self.flattens = len(target.shape) < len(source.shape)
        spatial = len(source.shape) > 2 and not self.flattens
        self.resize = Resize(source.shape[2:], target.shape[2:]) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        """The reshaped state."""
        if self.flattens:
            x = x.flatten(2).mean(2)
        if self.resize is not None:
            x = self.resize(x)
        if self.channels < 0:
            return x[:, : self.channels]
        padding = [0, 0] * (x.ndim - 2) + [0, self.channels]
        return functional.pad(x, padding) if self.channels else x


def identity(source: State, target: State, passed: Sequence[int | None] = ()) -> nn.Module | None:
    """The parameter-free map from one state's shapes to another's, or ``None``."""
    known = has_identity(source, target, passed)
    return leafwise(source, target, _resized, passed) if known else None


def has_identity(source: State, target: State, passed: Sequence[int | None] = ()) -> bool:
    """Whether there is a parameter-free map from one state's shapes to another's.

    Maps to maps, vectors to vectors, and maps to vectors; sequences only to themselves; beside one
    of them, masks and indices are zero, of which no jump is corrected.
    """
    alone = [i for i in range(len(target)) if i >= len(passed) or passed[i] is None]
    if len(source) != len(target) or not alone:
        return len(source) == len(target)
    maps = [_maps(source[i], target[i]) for i in alone]
    real = [target[i].dtype.is_floating_point or target[i].dtype.is_complex for i in alone]
    return any(maps) and all(known or not adds for known, adds in zip(maps, real, strict=True))


def _resized(source: TensorSpec, target: TensorSpec) -> nn.Module | None:
    if not _maps(source, target):
        return None
    return ParameterFree(source, target) if len(source.shape) > 1 else nn.Identity()


def _maps(source: TensorSpec, target: TensorSpec) -> bool:
    before, after = len(source.shape), len(target.shape)
    if source == target:
        return True
    real = source.dtype.is_floating_point and target.dtype.is_floating_point  # else no means
    if source.shape[:1] != target.shape[:1] or min(before, after) < 2 or not real:
        return False
    if before == after:
        return before != 3
    return before > 3 and after == 2
