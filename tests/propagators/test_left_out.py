"""Blocks left out at random by a network's own forward: what the error says to write works."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import TraceError
from pararealize.propagators.left_out import how_to_keep

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Dropping(nn.Module):
    """A LayerDrop by hand."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.blocks, self.how = nn.ModuleList(nn.Linear(4, 4) for _ in range(6)), how

    def drops(self) -> bool:
        match self.how:
            case "python":
                return random.random() < 0.5
            case "number":
                return torch.rand(1).item() < 0.5
            case _:
                return bool(torch.rand(()) < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if not (self.training and self.drops()):
                x = x + torch.tanh(block(x))
        return x


class Block(nn.Module):
    """What the error says to write."""

    def __init__(self, layer: nn.Module, p: float) -> None:
        super().__init__()
        self.layer, self.p = layer, p

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = x if self.training and torch.rand(()) < self.p else x + self.layer(x)
        return kept


@pytest.mark.parametrize("how", ["python", "number", "tensor"])
def test_the_error_says_what_to_write(how: str) -> None:
    torch.manual_seed(0)
    random.seed(0)
    model, x = Dropping(how).double(), torch.randn(3, 4).double()
    with pytest.raises(TraceError, match=r"return x if self\.training and torch\.rand"):
        pararealize(model, 3, method=EXACT, example_inputs=(x,))


def test_what_it_says_works() -> None:
    torch.manual_seed(0)
    layers = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6))
    model = nn.Sequential(*(Block(layer, 0.5) for layer in layers)).double()
    x = torch.randn(3, 4).double()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    for seed in range(3):
        torch.manual_seed(seed)
        wanted = model(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


def test_a_configuration_is_named() -> None:
    model = nn.Linear(4, 4)
    model.config = SimpleNamespace(encoder_layerdrop=0.1, width=3)  # type: ignore[assignment]
    assert how_to_keep(model) == "Keep them all: model.config.encoder_layerdrop = 0.0."
