"""States of three axes are read as layers around them read them; causal networks stay causal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import chain_of
from pararealize import Parareal, load, pararealize
from pararealize.coarse.layout import has_channels_first
from pararealize.coarse.setting import Setting
from pararealize.ir.plan import Machine

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

LENGTH, HERE = 12, 5


class Causal(nn.Module):
    """x + relu of a convolution of this position and earlier ones."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 2, dilation=dilation)
        self.left = dilation

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(functional.pad(x, (self.left, 0))))


class Series(nn.Module):
    """Convolutions over ``[batch, channels, positions]``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(channels, width, 1), nn.Conv1d(width, channels, 1)
        self.blocks = nn.ModuleList(Causal(width, 2 ** (i % 3)) for i in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x)
        return y


class Skips(Series):
    """The same, whose answers are a sum over all blocks, so that states are pairs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total = torch.zeros_like(x)
        for block in self.blocks:
            x = block(x)
            total = total + torch.tanh(x)
        y: Tensor = self.head(total)
        return y


class Functional(nn.Module):
    """Weights by name, and functions in place of modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(width, width, 2) / width for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = x + torch.tanh(functional.conv1d(functional.pad(x, (1, 0)), weight))
        return x


class Strided(nn.Module):
    """Every second position stays, made of itself and earlier ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Causal(width, 1) for _ in range(4))
        self.down = nn.Conv1d(width, 2 * width, 2, stride=2)
        self.more = nn.ModuleList(Causal(2 * width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        x = self.down(functional.pad(x, (1, 0)))
        for block in self.more:
            x = block(x)
        return x


class Tokens(nn.Module):
    """Linear maps over ``[batch, positions, features]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class Turned(nn.Module):
    """Features last between blocks, which turn them to convolve and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 2) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            y = functional.pad(x.transpose(1, 2), (1, 0))
            x = x + torch.tanh(conv(y)).transpose(1, 2)
        return x


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "series": (lambda: Series(3, 6), (2, 3, LENGTH)),
    "series of as many channels": (lambda: Series(6, 6), (2, 6, LENGTH)),
    "pairs": (lambda: Skips(6, 6), (2, 6, LENGTH)),
    "functions": (lambda: Functional(6), (2, 6, LENGTH)),
    "strided": (lambda: Strided(4), (2, 4, LENGTH)),
    "tokens": (lambda: Tokens(6), (2, LENGTH, 6)),
    "turned": (lambda: Turned(6), (2, LENGTH, 6)),
}
METHODS = {
    "default": Parareal(),
    "swept": Parareal(guess="coarse"),
    "generic": Parareal(coarse_budget=1e-9),
    "generic, swept": Parareal(coarse_budget=1e-9, guess="coarse", correction="difference"),
}


@pytest.mark.whole
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_position_sees_a_later_one(name: str, method: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    axis = shape.index(LENGTH)
    net = pararealize(
        make().double(), 3, method=METHODS[method], example_inputs=(torch.randn(shape).double(),)
    )
    for mode in (True, False):
        x = torch.randn(shape).double().requires_grad_()
        y = net.train(mode)(x)
        step = LENGTH // y.shape[axis]
        (gradient,) = torch.autograd.grad(y.narrow(axis, 0, HERE // step + 1).sum(), x)
        last = (HERE // step) * step
        assert not gradient.narrow(axis, last + 1, LENGTH - last - 1).any(), (name, method)
        assert gradient.narrow(axis, last, 1).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_layouts_are_seen_at_the_layers(name: str) -> None:
    make, shape = NETWORKS[name]
    model = make().double()
    chain = chain_of(model, torch.randn(shape).double(), 8)
    setting = Setting.of(chain, model, Machine(), Parareal())
    found = {has_channels_first(setting, i) for i in range(1, len(chain.layers))}
    assert (name not in {"tokens", "turned"}) in found
    assert len(found) == 1 or name == "turned"  # between its turns are states of the other layout


def test_a_saved_network_of_before_keeps_its_kinds(tmp_path: Path) -> None:
    """Folders name their kinds: ``positions`` is another one than ``generic``."""
    make, shape = NETWORKS["series"]
    torch.manual_seed(0)
    x = torch.randn(shape).double()
    net = pararealize(make().double(), 3, method=METHODS["generic"], example_inputs=(x,)).eval()
    assert "positions" in {piece.coarse for piece in net.plan.pieces}
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", make().double()).eval()
    assert again.plan == net.plan
    assert torch.equal(again(x), net(x))
