"""What a network keeps of its own around its blocks moves once a call, as in one call of it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from untraceable import WIDTH, Residual, looks, residuals

from pararealize import Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Counting(nn.Module):
    """Counts its calls in a buffer, before its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = residuals(4)
        self.register_buffer("count", torch.zeros(1))
        self.calls, self.seen = 0, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.through(looks(x)) * self.count

    def through(self, x: Tensor) -> Tensor:
        """All blocks."""
        for block in self.blocks:
            x = block(x)
        return x


class InPython(Counting):
    """In an attribute and in a list of its own."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        return self.through(looks(x)) * self.calls + len(self.seen)


class Behind(Counting):
    """Behind the blocks."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.through(looks(x))
        self.calls += 1
        self.count.mul_(0.5).add_(y.detach().mean())
        return y + self.count * self.calls


class Holding(nn.Module):
    """What holds the list of blocks counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = Counting(), Residual()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.body(looks(x)))
        return y


def kept(net: nn.Module) -> list[Any]:
    found = [dict(net.named_buffers())]
    modules = getattr(net, "original", net).modules()
    return [*found, *((m.calls, m.seen) for m in modules if isinstance(m, Counting))]


@pytest.mark.parametrize("kind", [Counting, InPython, Behind, Holding])
@pytest.mark.parametrize("method", [EXACT, Parareal(iterations=3)], ids=["exact", "swept"])
def test_what_is_kept_moves_once_a_call(kind: type[nn.Module], method: Parareal) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(3, 5, WIDTH).double()
    net = pararealize(copy.deepcopy(model), 3, method=method, example_inputs=(x,))
    for training in (True, True, False, False, True):
        torch.manual_seed(4)
        wanted = model.train(training)(x)
        torch.manual_seed(4)
        found = net.train(training)(x)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
        for mine, theirs in zip(kept(net), kept(model), strict=True):
            if isinstance(theirs, dict):
                torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
            else:
                assert mine == theirs
