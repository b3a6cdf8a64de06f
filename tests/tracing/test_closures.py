"""Hooks and functions that a copy keeps see the copy, and nothing stale is computed with."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.tracing.copying import copy_tree, meta_copy

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


def body() -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))


class Tapped(nn.Module):
    """Computes with what a hook has kept."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = body(), body(), how
        kept: dict[str, Tensor] = {}
        queue: list[Tensor] = []
        self.kept, self.queue = kept, queue

        def keep(_module: Any, _args: Any, output: Tensor) -> None:
            kept["y"] = output
            queue.append(output)

        self.a[1].register_forward_hook(keep)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        match self.how:
            case "dict":
                y = y + self.kept["y"]
            case "last":
                y = y * self.queue[-1]
            case "sum":
                y = y + sum(self.queue[-1:], torch.zeros_like(y))
        return self.b(y)


@pytest.mark.parametrize("how", ["dict", "last", "sum"])
def test_values_that_a_hook_keeps_are_no_constants(how: str) -> None:
    model, x = Tapped(how).double(), torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        model(x)
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert torch.equal(net(x + 1), model(x + 1))


def test_hooks_of_a_copy_fill_the_copys_containers() -> None:
    model, x = Tapped("none").double(), torch.randn(3, 6, dtype=torch.float64)
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    assert not model.kept
    net(x)
    assert not model.kept
    serial = net.to_serial()
    serial(x)
    torch.testing.assert_close(serial.kept["y"], serial.a[1](serial.a[0](x)))


def patched(model: nn.Module) -> nn.Module:
    old: Callable[..., Any] = model[1].forward  # type: ignore[index]
    model[1].forward = lambda x: 2 * old(x)  # type: ignore[index]
    return model


@pytest.mark.parametrize("copied", [copy_tree, meta_copy])
def test_functions_in_attributes_see_the_copy(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = patched(body())
    twin = copied(model)
    cell = twin[1].forward.__closure__[0]  # type: ignore[index, union-attr]
    assert cell.cell_contents.__self__ is twin[1]  # type: ignore[index]
    assert model[1].forward.__closure__[0].cell_contents.__self__ is model[1]  # type: ignore[index, union-attr]


def test_what_no_attribute_holds_stays_shared() -> None:
    model, seen = body(), list[Tensor]()
    model[0].register_forward_hook(lambda _module, _args, output: seen.append(output))
    copy_tree(model)(torch.randn(2, 6))
    assert len(seen) == 1
    copy.deepcopy(model)(torch.randn(2, 6))
    assert len(seen) == 2
