"""States of one number for each sample: no network mixes the batch."""

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.ir.chain import State, TensorSpec
from pararealize.propagators.generic import generic_coarse
from pararealize.propagators.guess_networks import generic_guess

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
NUMBER = TensorSpec((4,))
ROWS = TensorSpec((4, 3))


@pytest.mark.parametrize(
    "module",
    [
        generic_coarse((NUMBER,), (NUMBER,), bias=True),
        generic_coarse((NUMBER,), (NUMBER,), bias=False),
        generic_guess(NUMBER, NUMBER, "convolutions"),
    ],
)
def test_samples_do_not_see_each_other(module: nn.Module) -> None:
    x = torch.randn(6)
    derivative = torch.autograd.functional.jacobian(module, x)
    assert torch.equal(derivative, torch.diag(derivative.diagonal()))
    assert derivative.diagonal().abs().min() > 0


class Flow(nn.Module):
    """Couplings that carry the logarithm of their determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logarithm = x.new_zeros(len(x))
        for layer in self.layers:
            scale = torch.tanh(layer(x))
            x, logarithm = x * scale.exp(), logarithm + scale.sum(1)
        return x, logarithm


class Summed(nn.Module):
    """One number a sample from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Linear(1, 1) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = torch.tanh(scale(x[:, None])[:, 0]) + x
        return x


@pytest.mark.parametrize(("kind", "state"), [(Flow, (ROWS,)), (Summed, (NUMBER,))])
@pytest.mark.parametrize("guess", ["network", "coarse"])
def test_other_batches(kind: type[nn.Module], state: State, guess: str) -> None:
    torch.manual_seed(0)
    model = kind().double()
    x = torch.randn(state[0].shape, dtype=torch.float64)
    method = Parareal(coarse="network", guess=guess, iterations=3)  # type: ignore[arg-type]
    net = pararealize(model, 3, method=method, example_inputs=(x,))
    for batch in (1, 4, 7):
        y = torch.randn(batch, *state[0].shape[1:], dtype=torch.float64)
        # As many sweeps as subnetworks are exact.
        torch.testing.assert_close(net(y), model(y), rtol=1e-10, atol=1e-12)
