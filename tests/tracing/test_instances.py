"""What code asks of a traced value is answered whatever file the code is in."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from networks import assert_looked_into
from pararealize import Parareal, pararealize

pytest.importorskip("einops")

import elsewhere

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Around(elsewhere.Base):
    """Blocks before and after something that knows other files."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(*(Block() for _ in range(3))))
        self.after = nn.Sequential(*(Block() for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.middle(self.blocks(x)))

    def middle(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Inheriting(Around):
    def middle(self, x: Tensor) -> Tensor:
        return self.mixed([x]) + self.mixed(x)


class Mixing(elsewhere.Mixin, Around):
    def middle(self, x: Tensor) -> Tensor:
        return self.pooled(x)


class Helped(Around):
    def middle(self, x: Tensor) -> Tensor:
        return elsewhere.halves((x, elsewhere.halves(x)))


class Holding(Around):
    def __init__(self) -> None:
        super().__init__()
        self.policy, self.act = elsewhere.Policy(), partial(elsewhere.halves)

    def middle(self, x: Tensor) -> Tensor:
        return self.policy(x) + self.act(x)


class Enclosing(Around):
    def __init__(self, swap: Callable[[Any], Tensor] = elsewhere.swapped) -> None:
        super().__init__()
        self.turned = lambda x: swap(x) - x

    def middle(self, x: Tensor) -> Tensor:
        return self.turned(x)


class Above(Around):
    def middle(self, x: Tensor) -> Tensor:
        return super().kinds((x, x))

    forward = elsewhere.checked(Around.forward)


@pytest.mark.parametrize("kind", [Inheriting, Mixing, Helped, Holding, Enclosing, Above])
def test_code_in_other_files(kind: type[Around]) -> None:
    assert_looked_into(kind)


class Patched(Around):
    def middle(self, x: Tensor) -> Tensor:
        return x


def test_a_forward_of_its_own_for_one_of_two_modules_of_a_class() -> None:
    first, second = Patched(), Patched()
    second.middle = elsewhere.Policy().swapped  # type: ignore[method-assign]
    model, x = nn.Sequential(first, second).double(), torch.randn(3, 4).double()
    net = pararealize(model, 4, method=EXACT, example_inputs=(x,))
    assert not net.plan.tracing.found
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)
