"""Functions of torch on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.tracing.shapes import NumbersWantedError, ShapesOnly

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


@dataclass
class Positive:
    """Looks at the numbers it is made of."""

    values: Tensor

    def __post_init__(self) -> None:
        assert bool((self.values > -1e9).all())


@pytest.mark.parametrize(
    "make", [Positive, lambda x: torch.distributions.Gamma(x, 1.0, True), lambda x: x.sum().item()]
)
def test_nothing_without_memory_is_read_where_torch_is_not_overridden(make: object) -> None:
    """It would be the end of the process."""
    told: list[object] = []
    x = torch.ones(4, 16)
    shapes = ShapesOnly([x], lambda *call: told.append(call))
    with shapes:
        known = x * 2
        told.clear()
        with torch._C.DisableTorchFunction(), pytest.raises(NumbersWantedError):
            shapes.quietly(make, known)  # type: ignore[arg-type]
    assert not told
    shapes.release()


class Checked(nn.Module):
    """Hands its state on in a class that looks at the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(Positive(x + 1).values))


class Drawn(nn.Module):
    """Draws from a distribution, which looks at its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        scale = nn.functional.softplus(self.layer(x)) + 0.1
        return x + 0.0 * torch.distributions.Gamma(scale, 1.0, True).rsample()


@pytest.mark.parametrize("kind", [Checked, Drawn])
def test_networks_with_such_classes_compile(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(kind() for _ in range(4))).double()
    x = torch.randn(3, 4).double()
    net = pararealize(model, 2, method=Parareal("fine", "difference"), example_inputs=(x,))
    assert torch.allclose(net(x), model(x))
