"""Numbers among the arguments on which a program depends are always those it was compiled with."""

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from pararealize import Parareal, pararealize
from pararealize.errors import ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Stepping(nn.Module):
    """As many steps as it is told, of a length that is a number as others are."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor, steps: int = 6, h: float = 0.5) -> Tensor:
        for _ in range(steps):
            x = x + h * self.block(x)
        return x


class Decoding(nn.Module):
    """A cell that writes what it says into zeros, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(4, 4, batch_first=True), nn.GRUCell(4, 4)

    def forward(self, x: Tensor, steps: int = 5) -> Tensor:
        _, hidden = self.encoder(x)
        state, results = hidden[-1], torch.zeros(x.size(0), steps, 4, dtype=x.dtype)
        for t in range(steps):
            state = self.cell(x[:, 0], state)
            results[:, t] = state
        return results


class Splitting(nn.Module):
    """A loop over pieces of its input, as many as a number says."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x: Tensor, size: int = 1) -> Tensor:
        h = c = torch.zeros(x.size(0), 4, dtype=x.dtype)
        for part in x.split(int(size), dim=1):
            h, c = self.cell(part.sum(1), (h, c))
        return h + c


@pytest.mark.parametrize("kind", [Stepping, Decoding, Splitting])
def test_numbers_that_decide(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double()
    x = torch.randn(3, 4, 4).double()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert not net.plan.tracing.blocks
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(x[:2]), model(x[:2]), rtol=1e-12, atol=1e-12)
    with pytest.raises(ShapeError, match="compile another one"):
        net(x, 2)
    other = pararealize(model, 2, method=EXACT, example_inputs=(x, 2))
    torch.testing.assert_close(other(x, 2), model(x, 2), rtol=1e-12, atol=1e-12)


def test_numbers_that_only_compute_stay_free() -> None:
    model, x = Stepping().double(), torch.randn(3, 4).double()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(net(x, h=0.1), model(x, h=0.1), rtol=1e-12, atol=1e-12)
