"""Functions and layers of einops are recorded whole, their sizes those of the call."""

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from pararealize import Parareal, pararealize

einops = pytest.importorskip("einops")
rearrange, reduce = einops.rearrange, einops.reduce
pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Rearranging(nn.Module):
    """By a name of its own, and by the library's."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.ModuleList(Block() for _ in range(3))
        self.after = nn.ModuleList(Block() for _ in range(3))

    def middle(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = rearrange(x, "b (i j) -> b j i", i=2)
        x = einops.rearrange(x, "b j i -> (b i) j")
        return rearrange(x, "(b i) j -> b (j i)", b=b)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.before:
            x = block(x)
        x = self.middle(x)
        for block in self.after:
            x = block(x)
        return x


class Reducing(Rearranging):
    def middle(self, x: Tensor) -> Tensor:
        mean = einops.repeat(reduce(x, "b d -> d", "mean"), "d -> b d", b=x.shape[0])
        return x + mean * reduce(x, "b (i j) -> b 1", "max", i=2)


class Joining(Rearranging):
    def middle(self, x: Tensor) -> Tensor:
        packed, shapes = einops.pack([x, x.sin()], "b *")
        x, y = einops.unpack(packed, shapes, "b *")
        return x + einops.einsum(x, y, "b i, c i -> b c").mean(1, keepdim=True)


@pytest.mark.parametrize("kind", [Rearranging, Reducing, Joining])
def test_functions(kind: type[Rearranging]) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(3, 4).double()
    net = pararealize(model, 4, method=EXACT, example_inputs=(x,))
    assert not net.plan.tracing.found
    assert not net.plan.tracing.blocks
    for inputs in (x, torch.randn(5, 4).double()):
        torch.testing.assert_close(net(inputs), model(inputs), rtol=1e-12, atol=1e-12)


def test_layers_are_called_whole() -> None:
    from einops.layers.torch import Rearrange, Reduce  # noqa: PLC0415

    stem = [Rearrange("b (c d) -> b c d", c=1), Reduce("b c d -> b d", "sum")]
    model = nn.Sequential(*stem, *(Block() for _ in range(4)), Rearrange("b d -> d b"))
    x = torch.randn(3, 4)
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(net(x), model(x))
