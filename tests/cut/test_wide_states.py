"""One tensor at an interface is preferred, as long as that does not spoil the cut."""

import copy

import pytest
import torch
from torch import Tensor, nn

from networks import UNet
from pararealize import Parareal, pararealize
from pararealize.errors import CutError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Heavy(nn.Module):
    """A small way in and out of a large middle, over which a skip reaches."""

    def __init__(self, small: int = 3, large: int = 12) -> None:
        super().__init__()
        self.enter = nn.Sequential(*(nn.Linear(8, 8) for _ in range(small)))
        self.middle = nn.Sequential(*(nn.Linear(512, 512) for _ in range(large)))
        self.up, self.down = nn.Linear(8, 512), nn.Linear(512, 8)
        self.leave = nn.Sequential(*(nn.Linear(8, 8) for _ in range(small)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x + self.down(self.middle(self.up(x))))


def widths(net: nn.Module) -> list[int]:
    return [len(piece.state) for piece in net.plan.pieces[:-1]]  # type: ignore[union-attr]


def test_a_heavy_stretch_under_a_skip_is_cut_where_two_tensors_cross() -> None:
    model, x = Heavy().double(), torch.randn(4, 8).double()
    exact = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(exact(x), model(x))
    net = pararealize(model, 3, example_inputs=(x,))
    assert widths(net) == widths(exact) == [2, 2]
    seconds = [piece.seconds for piece in net.plan.pieces]
    assert max(seconds) < 0.5 * sum(seconds)
    assert "2 tensors" in net.explain()
    assert "Single tensors cross at" in net.explain()


def test_one_tensor_is_preferred_where_it_cuts_about_as_well() -> None:
    chain = nn.Sequential(*(Heavy(4, 2) for _ in range(6)))
    net = pararealize(chain, 3, example_inputs=(torch.randn(4, 8),))
    assert widths(net) == [1, 1]


def test_named_positions_may_be_crossed_by_several_tensors() -> None:
    model, x = UNet().double(), torch.randn(3, 4).double()
    names = ["down2", "up2"]
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,), interfaces=names)
    assert widths(net) == [2, 2]
    torch.testing.assert_close(net(x), copy.deepcopy(model)(x))
    with pytest.raises(CutError, match="'nowhere'"):
        pararealize(model, 3, example_inputs=(x,), interfaces=["down2", "nowhere"])
