"""Narrow layers: fresh convolutions and linear layers whose weights have low rank."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pararealize.propagators.factored import expanding, is_plain, rank_of, reducing

#: No rank is below this one.
LEAST = 16
#: Layers stay whole that low rank would leave more than this share of their products.
MOST = 0.5


def narrow_rank(layer: nn.Module, share: float) -> int | None:
    """A share of the largest rank, 16 at least; ``None`` where that is no wide layer.

    Wide are convolutions and linear layers whose products it halves at least.
    """
    found = rank_of(layer, share)
    rank = None if found is None else max(LEAST, found)
    return rank if rank is not None and products_at(layer, rank) <= MOST else None


def products_at(layer: nn.Module, rank: int) -> float:
    """Products of two layers of a rank for each of the layer itself."""
    rows, columns = cast("Tensor", layer.weight).flatten(1).shape
    return rank * (rows + columns) / (rows * columns)


@torch.no_grad()
def narrowed(layer: nn.Module, rank: int, *, bias: bool) -> nn.Module:
    """Two fresh layers, y = U (V x) + b: V is drawn as the layer's own, U keeps their spread.

    Numbers of U have the variance 1 / ``rank``, so that y is as large as that of a fresh layer;
    b is left out where the layer has none or ``bias`` says so.
    """
    assert is_plain(layer)
    device = layer.weight.device
    reduce = reducing(layer, rank).cpu()  # only the CPU's random state is forked
    expand = expanding(layer, rank, bias=bias and layer.bias is not None).cpu()
    reduce.reset_parameters()
    nn.init.normal_(expand.weight, std=rank**-0.5)
    return nn.Sequential(reduce, expand).to(device)
