"""Factored copies: whole subnetworks with weights of low rank, and what they cost."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import CoarseError
from pararealize.ir.methods import Method
from pararealize.ir.serialise import read
from pararealize.propagators.factored import FactoredLayer

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def method(share: float = 0.25) -> Parareal:
    return Parareal("factored", "difference", guess="coarse", coarse_rank=share)


class Wide(nn.Module):
    """Layers whose low rank pays, with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 16)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.dropout(torch.tanh(self.first(x))))


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Wide() for _ in range(6))).double()


def test_every_layer_is_kept_with_a_share_of_its_rank() -> None:
    x = torch.randn(3, 16, dtype=torch.float64)
    net = pararealize(wide(), 2, method=method(), example_inputs=(x,), interfaces=["2"])
    factored = [m for m in net.coarse["1"].modules() if isinstance(m, FactoredLayer)]
    assert [m.reduce.weight.shape[0] for m in factored] == [4] * 6
    assert [piece.coarse for piece in net.plan.pieces] == ["factored 0.25"] * 2
    assert [piece.coarse_parameters for piece in net.plan.pieces] == [3 * (320 + 320 + 64 + 16)] * 2
    coarse = net.coarse["1"].train()
    assert torch.equal(coarse(x), coarse(x))  # nothing is left out at random
    assert read(Method, json.loads(net.plan.to_json())["method"]) == method()


def test_of_nearly_full_rank_it_is_nearly_the_subnetwork() -> None:
    """Weights of rank 4 lose nothing in a quarter of 16."""
    model = wide()
    with torch.no_grad():
        for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
            u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u[:, :4] * s[:4] @ v[:4])
    x = torch.randn(3, 16, dtype=torch.float64)
    net = pararealize(model, 3, method=method(), example_inputs=(x,)).eval()
    assert torch.allclose(net(x), model.eval()(x), rtol=0, atol=1e-12)
    assert max(jump.relative for jump in net.report.jumps) <= 1e-12


def test_layers_that_low_rank_makes_no_cheaper_are_refused() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    message = "no 'factored' .* subnetwork 1 .* no layer of it is cheaper with coarse_rank=0.75"
    with pytest.raises(CoarseError, match=message):
        pararealize(model, 2, method=method(0.75), example_inputs=(torch.randn(2, 4),))
