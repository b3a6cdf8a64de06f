"""A class whose own train or eval does more than set a flag goes on doing so."""

import copy
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.emit.modes import set_mode
from pararealize.errors import RankError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


def layers(count: int) -> nn.Sequential:
    each = (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3)) for _ in range(count)
    )
    return nn.Sequential(*each)


class Tuned(nn.Module):
    """Layers that were trained before stay in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = layers(3), layers(2)

    def train(self, mode: bool = True) -> Self:
        """All but the first part."""
        super().train(mode)
        self.before.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.before(x))
        return y


class Sampling(nn.Module):
    """Goes on dropping when it is evaluated, as Monte Carlo dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(4)

    def eval(self) -> Self:
        """All but dropout."""
        super().eval()
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Around(nn.Module):
    """Has a part with a train of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = Tuned(), layers(1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.part(x))
        return y


@pytest.mark.parametrize("kind", [Tuned, Sampling, Around])
def test_modes_are_those_of_the_original(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(6, 4, dtype=torch.float64)
    net = pararealize(copy.deepcopy(model).train(), 3, method=EXACT, example_inputs=(x,))
    for mode in (True, False, True):
        model.train() if mode else model.eval()
        assert (net.train() if mode else net.eval()) is net
        modes = {n: m.training for n, m in net.named_modules()}
        assert all(modes[n] is m.training for n, m in model.named_modules())
        torch.manual_seed(1)
        wanted = model(x)
        torch.manual_seed(1)
        torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-13)


def test_what_looks_at_another_ranks_part_is_an_error() -> None:
    model = Tuned()
    del model.before
    with pytest.raises(RankError, match=r"Tuned.train looks at .* another rank .*before"):
        set_mode(model, training=True)
