"""Factored layers: two layers of low rank in place of a convolution or a linear layer."""

from __future__ import annotations

import copy
from typing import Any, TypeGuard, cast, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

#: Layers y = W x + b whose weight has one row for each channel that they make.
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@final
class FactoredLayer(nn.Module):
    """A layer y = W x + b with weights of low rank: y = U (V x) + b', U of ``rank`` columns.

    ``reduce`` (V) is the layer with as many channels as the rank, ``expand`` (U, b') a linear map
    of channels. They start where the error is least for white inputs: U are the leading left
    singular vectors of W. :meth:`project` starts them where it is least on data.

    Source: Zhang, Zou, He and Sun, "Accelerating Very Deep Convolutional Networks for
    Classification and Detection" (arXiv:1505.06798), section 3.1.

    Args:
        layer: the layer, which stays as it is.
        rank: at least 1.

    """

    def __init__(self, layer: Layer, rank: int) -> None:
        super().__init__()
        self.reduce, self.expand = reducing(layer, rank), expanding(layer, rank)
        rows = layer.weight.detach().flatten(1).double()
        self.project(layer, _bias(layer), rows @ rows.T)

    @torch.no_grad()
    def project(self, layer: Layer, mean: Tensor, covariance: Tensor) -> None:
        """Stand for ``layer`` with the least squared error on its answers y.

        U are the leading eigenvectors of the ``covariance`` of y, V = Uᵀ W, and
        b' = ȳ + U Uᵀ (b - ȳ) with the ``mean`` ȳ. Shapes: ``[channels]``, ``[channels, channels]``.
        """
        rank = self.reduce.weight.shape[0]
        vectors = torch.linalg.eigh(covariance.double())[1][:, -rank:]
        rows, mean = layer.weight.flatten(1).double(), mean.double()
        self.reduce.weight.copy_((vectors.T @ rows).view_as(self.reduce.weight))
        self.expand.weight.copy_(vectors.view_as(self.expand.weight))
        assert self.expand.bias is not None
        self.expand.bias.copy_(mean + vectors @ (vectors.T @ (_bias(layer) - mean)))

    def forward(self, x: Tensor) -> Tensor:
        """An answer of the layer's shape to the layer's inputs."""
        answer: Tensor = self.expand(self.reduce(x))
        return answer


def is_plain(layer: nn.Module) -> TypeGuard[Layer]:
    """Whether it is one of these layers, and not of a class of its own or in groups.

    Its weight is a parameter, not made by a hook from others.
    """
    own = type(layer) in get_args(Layer) and "weight" in layer._parameters
    return own and getattr(layer, "groups", 1) == 1


def rank_of(layer: nn.Module, share: float) -> int | None:
    """A share of the layer's largest rank; ``None`` where that takes no fewer products."""
    if not is_plain(layer):
        return None
    rows, columns = layer.weight.flatten(1).shape
    rank = max(1, round(share * min(rows, columns)))
    return rank if rank * (rows + columns) < rows * columns else None


def products_left(layer: nn.Module, share: float) -> float:
    """Products of the factored layer for each of the layer itself; 1 where it stays as it is."""
    rank = rank_of(layer, share)
    if rank is None:
        return 1.0
    rows, columns = cast("Tensor", layer.weight).flatten(1).shape
    return rank * (rows + columns) / (rows * columns)


def by_channel(layer: Layer, answer: Tensor) -> Tensor:
    """The layer's answer as ``[positions, channels]``."""
    spatial = len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0
    return answer.movedim(-1 - spatial, -1).flatten(0, -2)


def reducing(layer: Layer, rank: int) -> Layer:
    """A layer of the same kind to so many channels, without bias; its weight is not set."""
    weight = nn.Parameter(layer.weight.new_empty(rank, *layer.weight.shape[1:]))
    reduced = copy.deepcopy(layer, {id(layer.weight): weight})  # without the layer's own
    reduced.register_parameter("bias", None)
    if isinstance(reduced, _ConvNd):
        reduced.out_channels = rank
    else:
        reduced.out_features = rank
    return reduced


def expanding(layer: Layer, rank: int, *, bias: bool = True) -> Layer:
    """A linear map of so many channels to those that the layer makes."""
    weight = layer.weight
    sizes = (rank, len(weight), *((1,) if isinstance(layer, _ConvNd) else ()))
    like: Any = {"device": weight.device, "dtype": weight.dtype}
    return type(layer)(*sizes, bias=bias, **like)  # type: ignore[misc]


def _bias(layer: Layer) -> Tensor:
    zeros = layer.weight.new_zeros(len(layer.weight))
    return (zeros if layer.bias is None else layer.bias.detach()).double()
