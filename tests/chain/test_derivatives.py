"""Networks that take derivatives in their forward are not cut between a value and them."""

import pytest
import torch
from torch import Tensor, nn

from networks import BlocksAround
from pararealize import Parareal, pararealize
from pararealize.errors import CutError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Scored(BlocksAround):
    """Blocks, a derivative by what they give, and blocks again."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

    def middle(self, x: Tensor) -> Tensor:
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class Twice(Scored):
    """A derivative of a derivative, its inputs by name."""

    def middle(self, x: Tensor) -> Tensor:
        ones = torch.ones_like(x)
        first = torch.autograd.grad(self.energy(x).sum(), inputs=[x], create_graph=True)[0]
        return torch.autograd.grad(first, x, ones, create_graph=True)[0] + x


class Steps(Scored):
    """Two steps down an energy, with a cut between them."""

    def middle(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x - 0.1 * torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]
        return x


class ByWeights(Scored):
    """By a weight, which every subnetwork that reads it has."""

    def middle(self, x: Tensor) -> Tensor:
        weight = self.energy[0].weight
        loss = self.energy(x).square().mean()
        return x - torch.autograd.grad(loss, weight, create_graph=True)[0].sum()


@pytest.mark.parametrize("kind", [Scored, Twice, Steps])
def test_derivatives_in_forward(kind: type[Scored]) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(3, 4).double()
    net = pararealize(model, 4, method=EXACT, example_inputs=(x,))
    assert not net.plan.tracing.unverified
    for inputs in (x, torch.randn(5, 4).double()):
        wanted, found = model(inputs), net(inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        wanted.square().sum().backward()
        found.square().sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                grad = net.get_parameter(name).grad
                torch.testing.assert_close(grad, parameter.grad, rtol=1e-10, atol=1e-12)
        model.zero_grad()
        net.zero_grad()


def test_by_weights() -> None:
    torch.manual_seed(0)
    model, x = ByWeights().double(), torch.randn(3, 4).double()
    net = pararealize(model, 4, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)


def test_no_cut_lies_inside() -> None:
    class Alone(Scored):
        def forward(self, x: Tensor) -> Tensor:
            return self.middle(x.detach().requires_grad_())

    with pytest.raises(CutError, match="write n="):
        pararealize(Alone(), 4, method=EXACT, example_inputs=(torch.randn(3, 4),))
    model, x = Scored(), torch.randn(3, 4)
    with pytest.raises(CutError, match="cannot be cut after"):
        pararealize(model, 2, method=EXACT, example_inputs=(x,), interfaces=["energy.0"])


class Isolated(Scored):
    """A derivative by a value of its own, taken whether gradients are on or not."""

    def middle(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return x + torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class OfValues(Scored):
    """By values that a call of the network is handed."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(super().forward(x))
            return x - torch.autograd.grad(energy.sum(), x, create_graph=True)[0]

    def middle(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("kind", [Isolated, OfValues])
@pytest.mark.parametrize("grad", [True, False])
def test_derivatives_are_taken_where_gradients_are_off(kind: type[Scored], grad: bool) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(3, 4).double()
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Scored, Twice, Isolated, OfValues])
@pytest.mark.parametrize(
    "coarse", ["network", "auto", pytest.param("identity", marks=pytest.mark.rest)]
)
def test_coarse_networks_take_no_derivatives(kind: type[Scored], coarse: str) -> None:
    """What is left out of them may be what a derivative is taken by."""
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    net = pararealize(kind(), 2, method=Parareal(coarse=coarse), example_inputs=(x,))
    for training in (True, False):
        assert net.train(training)(x).isfinite().all()
