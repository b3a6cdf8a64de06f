"""Functions and layers of einops are recorded whole, their sizes those of the call."""

import pytest
import torch
from torch import Tensor, nn

from networks import BlocksAround, assert_looked_into
from networks import TanhBlock as Block
from pararealize import Parareal, pararealize

einops = pytest.importorskip("einops")
rearrange, reduce = einops.rearrange, einops.reduce
pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Rearranging(BlocksAround):
    """By a name of its own, and by the library's."""

    def middle(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = rearrange(x, "b (i j) -> b j i", i=2)
        x = einops.rearrange(x, "b j i -> (b i) j")
        return rearrange(x, "(b i) j -> b (j i)", b=b)


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
    assert_looked_into(kind)


def test_layers_are_called_whole() -> None:
    from einops.layers.torch import Rearrange, Reduce  # noqa: PLC0415

    stem = [Rearrange("b (c d) -> b c d", c=1), Reduce("b c d -> b d", "sum")]
    model = nn.Sequential(*stem, *(Block() for _ in range(4)), Rearrange("b d -> d b"))
    x = torch.randn(3, 4)
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(net(x), model(x))
