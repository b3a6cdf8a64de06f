"""Guess networks C_j: small networks from a network's input to the state at an interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.chain import TensorSpec
from pararealize.propagators.generic import (
    CONVOLUTIONS,
    RANK_SHARE,
    SERIES,
    LowRank,
    PerSample,
    is_map,
)
from pararealize.propagators.positions import position_map

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
#: Channels that convolutions of images have at least, unless the guessed state has fewer.
NARROWEST = 16


@final
class ConvolutionGuess(nn.Module):
    """C_j(x): convolutions at the input's size, as many for each halving, then a 1×1 convolution.

    ``[batch, c_in, *size] -> [batch, c_out, *ceil(size/ratio)]``, ``count`` at each size. Each one
    is normalised and rectified; where the image is halved, channels are doubled, up to a quarter of
    ``c_out``. A ratio's odd prime factors p are convolutions of p pixels and stride p.
    """

    def __init__(
        self, source: TensorSpec, target: TensorSpec, ratio: tuple[int, ...], count: int = 2
    ) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[len(ratio)], NORMS[len(ratio)]
        width = max(1, target.shape[1] // RANK_SHARE)
        left, before = max(ratio), source.shape[1]
        parts: list[nn.Module] = []
        for strides in _steps(ratio, count):
            left = max(1, left // max(strides))
            after = max(width // left, min(width, NARROWEST))
            step: Any = strides
            size: Any = tuple(max(3, 2 * (stride // 2) + 1) for stride in strides)
            padding: Any = tuple(side // 2 for side in size)
            parts.append(convolution(before, after, size, step, padding, bias=False))
            parts += [norm(after), nn.ReLU()]
            before = after
        self.features = nn.Sequential(*parts)
        self.mix = convolution(before, target.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """The guessed state."""
        y: Tensor = self.mix(self.features(x))
        return y


def _steps(ratio: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """Strides of all convolutions: those that keep the size, then the ratio's prime factors.

    Each of them is followed by ones that keep it, so that there are ``count`` at every size.
    """
    kept = (1,) * len(ratio)
    yield from (kept,) * count
    for strides in zip_longest(*map(_factors, ratio), fillvalue=1):
        yield from (strides, *(kept,) * (count - 1))


def _factors(number: int) -> list[int]:
    """The prime factors, from the smallest on."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found


@final
class PatchGuess(nn.Module):
    """C_j(x): overlapping patches of the input, normalised, mixed by a 1×1 convolution.

    ``[batch, c_in, *size] -> [batch, c_out, *ceil(size/ratio)]``. A patch reaches one ratio
    beyond its middle on either side, so that even at full resolution it sees its neighbours. What
    folders were saved with that name ``"patches"`` as a guess.
    """

    def __init__(self, source: TensorSpec, target: TensorSpec, ratio: tuple[int, ...]) -> None:
        super().__init__()
        axes = len(ratio)
        width = max(1, target.shape[1] // RANK_SHARE)
        convolution = CONVOLUTIONS[axes]
        size: Any = tuple(2 * r + 1 for r in ratio)
        step: Any = ratio
        self.patches = convolution(source.shape[1], width, size, step, step, bias=False)
        self.norm = NORMS[axes](width)
        self.mix = convolution(width, target.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """The guessed state."""
        y: Tensor = self.mix(torch.relu(self.norm(self.patches(x))))
        return y


#: What guesses series, where no position may be made of later ones.
POSITIONS = "positions"
#: What guesses maps, the best first, which is the dearest where images are small.
MAPS: Mapping[str, Callable[[TensorSpec, TensorSpec, tuple[int, ...]], nn.Module]] = {
    "convolutions": ConvolutionGuess,
    "few convolutions": partial(ConvolutionGuess, count=1),
    "patches": PatchGuess,
}


def _stride(large: tuple[int, ...], small: tuple[int, ...]) -> tuple[int, ...] | None:
    """The stride that brings one size to the other, rounded up, as padded convolutions do."""
    strides = tuple(max(1, math.ceil(a / b)) for a, b in zip(large, small, strict=True))
    reached = tuple(math.ceil(a / s) for a, s in zip(large, strides, strict=True))
    return strides if reached == small else None


def _map_stride(source: TensorSpec, target: TensorSpec) -> tuple[int, ...] | None:
    """The stride from the network's input to an interface, where both are maps and one fits."""
    same = len(source.shape) == len(target.shape) and source.shape[:1] == target.shape[:1]
    if not (same and len(source.shape) - 2 in CONVOLUTIONS and is_map(source, target)):
        return None
    return _stride(source.shape[2:], target.shape[2:])


def map_kinds(source: TensorSpec, target: TensorSpec) -> Sequence[str]:
    """Names of :data:`MAPS`, the best first; of the first alone where all are the same network."""
    kinds = tuple(MAPS)
    return kinds if _map_stride(source, target) is not None else kinds[:1]


def generic_guess(source: TensorSpec, target: TensorSpec, kind: str) -> nn.Module | None:
    """A small network from the network's input to an interface, or ``None``.

    Maps are guessed by the kind of network of that name, one of :data:`MAPS`, and series, whose
    axes are ``[batch, channels, positions]``, by :data:`POSITIONS`.
    """
    if not (source.dtype.is_floating_point and target.dtype.is_floating_point):
        return None
    same_axes = len(source.shape) == len(target.shape) and source.shape[:1] == target.shape[:1]
    if kind == POSITIONS:
        known = (
            same_axes and len(source.shape) == SERIES and 0 not in (*source.shape, *target.shape)
        )
        return position_map(source, target, bias=True) if known else None
    ratio = _map_stride(source, target)
    if ratio is not None:
        return MAPS[kind](source, target, ratio)
    if same_axes and source.shape[:-1] == target.shape[:-1] and len(source.shape) < 4:
        make_map = LowRank if len(source.shape) > 1 else PerSample
        return nn.Sequential(make_map(source, target, bias=True))
    return None


@final
class TokenGuess(nn.Module):
    """C_j(tokens): narrow embeddings, mixed: ``[batch, tokens] -> [batch, tokens, width]``."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        narrow = max(1, width // RANK_SHARE)
        self.embed = nn.Embedding(vocabulary, narrow)
        self.mix = nn.Linear(narrow, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The guessed state."""
        y: Tensor = self.mix(self.embed(tokens))
        return y


def token_guess(source: TensorSpec, target: TensorSpec, vocabulary: int) -> nn.Module | None:
    """A small network from tokens to a sequence of vectors, or ``None``."""
    is_sequence = target.shape[:-1] == source.shape and target.dtype.is_floating_point
    if not vocabulary or source.dtype.is_floating_point or not is_sequence:
        return None
    return TokenGuess(vocabulary, target.shape[-1])
