"""Whole numbers that a network hands to its blocks are checked in every call."""

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Windows(nn.Module):
    """Mixes the rows of a map whose sides come as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = size
        means = x.view(len(x), rows, columns, -1).mean(1, keepdim=True)
        return x + torch.tanh(self.linear(means.expand(-1, rows, -1, -1).flatten(1, 2)))


class Rows(Windows):
    def forward(self, x: Tensor, size: int) -> Tensor:  # type: ignore[override]
        return super().forward(x, (size, x.shape[1] // size))


class Named(Windows):
    def forward(self, x: Tensor, *, size: int) -> Tensor:  # type: ignore[override]
        return super().forward(x, (size, x.shape[1] // size))


class Swinging(nn.Module):
    """Its own forward looks at numbers, so that it is cut around its blocks."""

    def __init__(self, kind: type[Windows]) -> None:
        super().__init__()
        self.kind, self.blocks = kind, nn.ModuleList(kind() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        if float(x.abs().max()) > 1e6:
            x = x / 2
        for block in self.blocks:
            if self.kind is Named:
                x = block(x, size=rows)
            else:
                x = block(x, rows if self.kind is Rows else (rows, columns))
        return x.mean(1)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("kind", [Windows, Rows, Named])
@pytest.mark.parametrize("method", [EXACT, Parareal()], ids=["exact", "own"])
def test_another_size_is_named(kind: type[Windows], method: Parareal) -> None:
    torch.manual_seed(0)
    model = Swinging(kind).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    net = pararealize(model, 3, method=method, example_inputs=(x,))
    assert net.plan.tracing.blocks == "blocks"
    for batch in (1, 2, 3):
        y = torch.randn(batch, 4, 3, 5, dtype=torch.float64)
        assert net(y).shape == model(y).shape
        if method is EXACT:
            torch.testing.assert_close(net(y), model(y), rtol=1e-12, atol=1e-12)
    with pytest.raises(ShapeError, match=r"hands \d+ to blocks.*example_inputs=\(x,\)"):
        net(torch.randn(2, 4, 6, 5, dtype=torch.float64))
