"""Factored layers: exact at full rank, least squares on data below it, and fewer products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize.propagators.factored import (
    FactoredLayer,
    by_channel,
    is_plain,
    products_left,
    rank_of,
)

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 10), (5, 3, 6)),
    "no bias": (lambda: nn.Linear(6, 10, bias=False), (40, 6)),
    "1d": (lambda: nn.Conv1d(4, 10, 3, stride=2, padding=1), (8, 4, 9)),
    "2d": (lambda: nn.Conv2d(3, 12, 3, padding=2, dilation=2), (4, 3, 8, 8)),
    "reflecting": (lambda: nn.Conv2d(3, 12, (1, 3), padding=1, padding_mode="reflect"), (3, 8, 8)),
    "3d": (lambda: nn.Conv3d(2, 9, 2), (2, 2, 4, 4, 4)),
}


def drawn(name: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double(), torch.randn(shape, dtype=torch.float64)


def moments(layer: nn.Module, answer: Tensor) -> tuple[Tensor, Tensor]:
    assert is_plain(layer)
    rows = by_channel(layer, answer)
    return rows.mean(0), rows.T.cov(correction=0)


@pytest.mark.parametrize("name", LAYERS)
def test_of_full_rank_it_is_the_layer(name: str) -> None:
    """Both where it starts and on data; products of orthogonal matrices are exact to rounding."""
    layer, x = drawn(name)
    factored = FactoredLayer(layer, min(layer.weight.flatten(1).shape))
    assert torch.allclose(factored(x), layer(x), rtol=0, atol=1e-12)
    whole = FactoredLayer(layer, len(layer.weight)) if name == "2d" else factored
    whole.project(layer, *moments(layer, layer(x)))
    assert torch.allclose(whole(x), layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_on_data_it_leaves_out_what_varies_least(name: str) -> None:
    """The squared error is the sum of the smallest eigenvalues (Eckart and Young)."""
    layer, x = drawn(name)
    answer = layer(x).detach()
    mean, covariance = moments(layer, answer)
    factored = FactoredLayer(layer, 2)
    factored.project(layer, mean, covariance)
    wrong = by_channel(layer, factored(x) - answer).detach()
    left = torch.linalg.eigvalsh(covariance)[:-2].sum()
    assert float((wrong**2).sum(1).mean()) == pytest.approx(float(left), rel=1e-9)
    assert torch.allclose(wrong.mean(0), torch.zeros(len(mean), dtype=mean.dtype), atol=1e-12)


def test_it_starts_from_the_leading_singular_vectors() -> None:
    layer, _ = drawn("linear")
    factored = FactoredLayer(layer, 3)
    product = factored.expand.weight @ factored.reduce.weight
    left = torch.linalg.svdvals(layer.weight.detach())[3:]
    wrong = torch.linalg.norm(product - layer.weight).item()
    assert wrong == pytest.approx(float(torch.linalg.norm(left)), rel=1e-9)
    assert torch.allclose(factored.expand.bias, layer.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_left_is_what_its_weights_are(name: str) -> None:
    layer, _ = drawn(name)
    rank = rank_of(layer, 0.4)
    assert rank is not None
    factored = FactoredLayer(layer, rank)
    weights = factored.reduce.weight.numel() + factored.expand.weight.numel()
    assert products_left(layer, 0.4) == pytest.approx(weights / layer.weight.numel())
    assert weights < layer.weight.numel()


class OwnLinear(nn.Linear):
    """May compute something else."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 8),  # half of its rank takes as many products
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ConvTranspose2d(8, 8, 3),
        OwnLinear(8, 64),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 64)),
        nn.BatchNorm2d(8),
    ],
)
def test_other_layers_stay_as_they_are(layer: nn.Module) -> None:
    assert rank_of(layer, 0.5) is None
    assert products_left(layer, 0.5) == 1.0


def test_a_frozen_half_precision_layer_gets_trainable_factors_of_its_kind() -> None:
    layer = nn.Linear(8, 64).bfloat16().requires_grad_(False)
    factored = FactoredLayer(layer, 2)
    assert all(p.requires_grad and p.dtype == torch.bfloat16 for p in factored.parameters())
    assert not any(p.requires_grad for p in layer.parameters())
    assert factored(torch.randn(3, 8).bfloat16()).shape == (3, 64)
