"""Narrow layers: which are wide, and what fresh ones of low rank give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pararealize.propagators.narrow import LEAST, MOST, narrow_rank, narrowed, products_at

#: Wide layers with an input, and the ranks that a quarter of their largest is.
WIDE: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "3×3": (lambda: nn.Conv2d(128, 256, 3, padding=1), (2, 128, 8, 8), 64),
    "1×1, no bias": (lambda: nn.Conv2d(256, 128, 1, bias=False), (2, 256, 6, 6), 32),
    "strided": (lambda: nn.Conv1d(96, 96, 4, stride=2), (4, 96, 40), 24),
    "volumes": (lambda: nn.Conv3d(64, 64, 3), (1, 64, 5, 5, 5), 16),
    "linear": (lambda: nn.Linear(512, 64), (64, 512), 16),
    "few channels, one side": (lambda: nn.Linear(48, 400), (64, 48), 16),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_layers_become_two_of_as_many_products_as_are_counted(name: str) -> None:
    make, shape, rank = WIDE[name]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape)
    assert narrow_rank(layer, 0.25) == rank
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    found = narrowed(layer, rank, bias=True)
    assert found(x).shape == layer(x).shape
    weights = sum(p.numel() for n, p in found.named_parameters() if n.endswith("weight"))
    assert products_at(layer, rank) == pytest.approx(weights / layer.weight.numel())
    assert products_at(layer, rank) <= MOST
    has_bias = any(n.endswith("bias") for n, _ in found.named_parameters())
    assert has_bias == (layer.bias is not None)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", WIDE)
def test_answers_are_as_large_as_those_of_a_fresh_layer(name: str) -> None:
    """Of thousands of numbers and a rank of 16 or more; variances then differ by a few tenths."""
    make, shape, rank = WIDE[name]
    torch.manual_seed(0)
    layer = make()
    layer.register_parameter("bias", None)
    x = torch.randn(shape)
    found = narrowed(layer, rank, bias=True)
    assert found(x).std().item() == pytest.approx(layer(x).std().item(), rel=0.3)
    assert not found(torch.zeros(shape)).any()


class OwnConvolution(nn.Conv2d):
    """May compute something else."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3),  # rank 16 would be all of it
        nn.Conv2d(3, 64, 3),
        nn.Linear(28, 400),  # more than half would be left
        nn.Conv2d(256, 256, 3, groups=2),
        nn.ConvTranspose2d(128, 128, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(128, 128, 3)),
        nn.utils.spectral_norm(nn.Linear(256, 256)),
        OwnConvolution(128, 128, 3),
        nn.BatchNorm2d(256),
    ],
)
def test_other_layers_stay_whole(layer: nn.Module) -> None:
    assert narrow_rank(layer, 0.25) is None


def test_no_rank_is_below_the_least() -> None:
    assert narrow_rank(nn.Conv2d(256, 256, 3), 0.01) == LEAST


def test_they_have_the_layers_kind_of_numbers_and_are_trained() -> None:
    layer = nn.Conv2d(128, 128, 3).bfloat16().requires_grad_(False)
    found = narrowed(layer, 32, bias=False)
    assert all(p.requires_grad and p.dtype == torch.bfloat16 for p in found.parameters())
