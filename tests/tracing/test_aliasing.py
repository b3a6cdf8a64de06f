"""No interface parts values that share memory on which the network writes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import assert_equal_steps, chain_of, compiled, step
from pararealize import Parareal
from pararealize.errors import CutError

EXACT = Parareal(coarse="fine", correction="difference")


class Between(nn.Module):
    """Two linear layers with a function of the first's output and the input between them."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), x))


def half_written(y: Tensor, _: Tensor) -> Tensor:
    """Writes on a view of what is used afterwards."""
    half = y[:, :2]
    half.mul_(0.5)
    return torch.tanh(y)


def viewed_before(y: Tensor, _: Tensor) -> Tensor:
    """Reads a view after its base was written on."""
    half = y[:, :2]
    y.mul_(0.5)
    return y + torch.cat([half, half], 1)


def sisters(y: Tensor, _: Tensor) -> Tensor:
    """Writes on one of two views that overlap."""
    a, b = y[:, :3], y[:, 1:]
    a = functional.elu(a, inplace=True)
    return torch.cat([a, b[:, :1]], 1)


def out(y: Tensor, _: Tensor) -> Tensor:
    """Writes by the keyword ``out``."""
    z = y.detach()
    half = z[:, :2]
    doubled = torch.mul(half, 2.0, out=half)
    return y * z + doubled.sum()


def by_function(y: Tensor, _: Tensor) -> Tensor:
    z = y.view(4, -1)
    z = functional.relu(z, inplace=True)
    return z.view(y.shape) + y


WRITERS = (half_written, viewed_before, sisters, out, by_function)


@pytest.mark.parametrize("function", WRITERS, ids=lambda f: f.__name__)
def test_writing_on_shared_memory_is_seen_as_in_the_serial_network(
    function: Callable[..., Tensor],
) -> None:
    model, x = Between(function).double(), torch.randn(6, 4, dtype=torch.float64)
    for pieces in range(9, 1, -1):  # at every legal interface
        try:
            net = compiled(model, pieces, EXACT, x)
        except CutError:
            continue
        break
    assert_equal_steps(step(net, model, x), step(model, model, x), 1e-12)


class WritesInput(nn.Module):
    """The input is written on at first and read at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        return self.layers(x) + x


def test_an_input_is_not_read_after_another_subnetwork_wrote_on_it() -> None:
    with pytest.raises(CutError):
        compiled(WritesInput(), 2, EXACT, torch.randn(2, 4))
    assert compiled(WritesInput(), 1, EXACT, torch.randn(2, 4)).plan.n == 1


class Ordinary(nn.Module):
    """Writes on fresh memory, as networks usually do, and reaches over it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.dropout(self.a(x), 0.1, self.training).relu_()
        z = functional.dropout(self.b(y), 0.1, self.training).relu_()
        return self.c(y + z)


def test_writing_on_fresh_memory_forbids_nothing() -> None:
    chain = chain_of(Ordinary(), torch.randn(2, 4), width=2)
    names = [interface.name for interface in chain.interfaces]
    assert names == ["a", "dropout", "relu_", "b", "dropout_1", "relu__1", "add"]


class Hooked(nn.Module):
    """A container that is called whole, because it has a hook, and that writes on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.block = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))
        self.block.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y + self.block(y))


def test_a_container_called_whole_may_write_on_its_input() -> None:
    model, x = Hooked().double(), torch.randn(6, 4, dtype=torch.float64)
    net: Any = compiled(model, 2, EXACT, x, ("a",))
    state = torch.randn(6, 4, dtype=torch.float64)
    kept = state.clone()
    net.propagators["fine.2"](state)
    assert torch.equal(state, kept)
    assert_equal_steps(step(net, model, x), step(model, model, x), 1e-12)
