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


class Reading(nn.Module):
    """A block that reads the memory of an encoder, where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        return x + self.second(torch.tanh(self.first(x if memory is None else x * memory)))


class Translating(nn.Module):
    """An encoder and a decoder, whose forward cannot be traced; the memory is answered too."""

    def __init__(self, encoder: int, decoder: int, words: int = 16) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Reading() for _ in range(encoder))
        self.decoder = nn.ModuleList(Reading() for _ in range(decoder))
        self.words = nn.Linear(16, words)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if bool(x.isnan().any()):
            raise ValueError
        memory = x
        for block in self.encoder:
            memory = block(memory)
        for block in self.decoder:
            x = block(x, memory)
        return {"words": self.words(x), "memory": memory}


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


@pytest.mark.parametrize(("encoder", "decoder", "n"), [(4, 4, 4), (3, 5, 3), (6, 4, 4)])
def test_a_decoder_is_cut_though_its_encoder_has_places_enough(
    encoder: int, decoder: int, n: int
) -> None:
    """Else all of it would come after the last subnetwork, as what nothing runs beside."""
    torch.manual_seed(0)
    model, x = Translating(encoder, decoder).double(), torch.randn(3, 16).double()
    net = pararealize(model, n, method=EXACT, example_inputs=(x,), verify=False)
    torch.testing.assert_close(net(x), model(x))
    seconds = [piece.seconds for piece in net.plan.pieces]
    assert max(seconds) * n <= 1.5 * sum(seconds)
    assert net.plan.head_seconds * n < sum(seconds)
    assert 2 in widths(net)


def test_a_large_head_does_not_ask_for_tuples() -> None:
    """It is as large wherever the blocks before it are cut."""
    model, x = Translating(8, 0, words=40000).double(), torch.randn(3, 16).double()
    net = pararealize(model, 4, example_inputs=(x,), verify=False)
    assert net.plan.head_seconds * 4 > sum(piece.seconds for piece in net.plan.pieces)
    assert widths(net) == [1, 1, 1]


def test_named_positions_may_be_crossed_by_several_tensors() -> None:
    model, x = UNet().double(), torch.randn(3, 4).double()
    names = ["down2", "up2"]
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,), interfaces=names)
    assert widths(net) == [2, 2]
    torch.testing.assert_close(net(x), copy.deepcopy(model)(x))
    with pytest.raises(CutError, match="'nowhere'"):
        pararealize(model, 3, example_inputs=(x,), interfaces=["down2", "nowhere"])
