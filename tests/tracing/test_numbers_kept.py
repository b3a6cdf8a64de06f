"""What a forward says of its weights' numbers, and of flags, while it is only looked at."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.ir.program import Operation, Ref
from pararealize.propagators.memory import written_by_call

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


def multiplied(layer: nn.Module) -> None:
    layer.weight.data *= layer.mask


def bound(layer: nn.Module) -> None:
    layer.weight.data = layer.weight.data * layer.mask


def clamped(layer: nn.Module) -> None:
    layer.bias.data = layer.bias.data.clamp(-1, 1)


def normalised(layer: nn.Module) -> None:
    layer.weight.data = torch.renorm(layer.weight.data, p=2, dim=0, maxnorm=1)


class Masked(nn.Linear):
    """Writes on the numbers of its weights in every call, always with the same outcome."""

    def __init__(self, write: Callable[[nn.Module], None]) -> None:
        super().__init__(4, 4)
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)))
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        self.write(self)
        return x + torch.tanh(super().forward(x))


@pytest.mark.parametrize("write", [multiplied, bound, clamped, normalised])
def test_weights_that_a_forward_replaces(write: Callable[[nn.Module], None]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(Masked(write) for _ in range(6))).double()
    x = torch.randn(3, 4).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)


class Windowed(nn.Module):
    """Booleans that are joined by operators whose names end in an underscore."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) * self.join(x > -1, x < 1).to(x.dtype)
        return x


@pytest.mark.parametrize(
    "join", [lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a ^ b, lambda a, b: ~(a & b)]
)
def test_joined_booleans_write_on_nothing(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    model, x = Windowed(join).double(), torch.randn(3, 4).double()
    net = pararealize(model, 4, method=EXACT, example_inputs=(x,))
    assert net.plan.interfaces >= 5
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)


def test_what_ends_in_an_underscore_writes_otherwise() -> None:
    assert written_by_call(Operation("a", "method", "add_", (Ref("x"),))) == ("x",)
    assert written_by_call(Operation("a", "function", torch.relu_, (Ref("x"),))) == ("x",)
