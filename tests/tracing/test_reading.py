"""What a forward reads of a module is noted; weights in a property are no values that change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import pararealize
from pararealize.errors import RecompiledWarning


class Reading(nn.Module):
    """A linear layer whose forward asks a property for its weights."""

    def __init__(self, weights: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.layer, self.scale, self.read = nn.Linear(4, 4), 2.0, weights

    @property
    def weights(self) -> Any:
        """Anything that holds weights."""
        return self.read(self)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer, scaled."""
        found = self.weights
        weight, bias, scale = found.values() if isinstance(found, dict) else found
        return torch.tanh(functional.linear(x, weight, bias)) * scale


@pytest.mark.parametrize(
    "weights",
    [
        lambda m: (m.layer.weight, m.layer.bias, m.scale),
        lambda m: [m.layer.weight * 2, m.layer.bias, m.scale],
        lambda m: {"weight": m.layer.weight, "bias": m.layer.bias, "scale": m.scale},
    ],
)
def test_weights_may_come_from_a_property(weights: Callable[[nn.Module], Any]) -> None:
    """However they are held; a number beside them that changes is noticed as others are."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Reading(weights) for _ in range(4))).double(), torch.randn(2, 4)
    x = x.double()
    net = pararealize(model, 2, example_inputs=(x,), verify=True)
    assert torch.equal(net.to_serial()(x), model(x))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(x).sum().backward()
    optimizer.step()
    before = net(x)  # weights that were trained are no others
    net.get_submodule("1").scale = 3.0
    with pytest.warns(RecompiledWarning, match="scale"):
        assert not torch.equal(net(x), before)
