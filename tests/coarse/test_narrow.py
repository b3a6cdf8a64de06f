"""Narrow: wide layers that stand alone have low rank in coarse networks that would be dear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, load, models, pararealize
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.network import SMALL, Network, OwnLayers
from pararealize.coarse.registry import described
from pararealize.compiler import chain_of
from pararealize.decide.parareal_passes import PararealPasses
from pararealize.decide.request import Request
from pararealize.ir.plan import Machine
from pararealize.network import ParallelNetwork
from pararealize.verification.verify import verified

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def plain(*widths: int, size: int = 16, pool: tuple[int, ...] = ()) -> tuple[nn.Module, Tensor]:
    """Convolutions and rectifiers of some widths, the image halved behind some of them."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i in pool else []
    return seeded(lambda: nn.Sequential(*layers)), torch.randn(2, widths[0], size, size)


def compiled(
    model: nn.Module, x: Tensor, at: str, coarse: str | CoarseKind = "network", **options: Any
) -> ParallelNetwork:
    method = Parareal(coarse, **options)
    return pararealize(model, 2, method=method, example_inputs=(x,), interfaces=[at])


def options(net: ParallelNetwork) -> Mapping[str, Any]:
    piece = net.plan.pieces[1]
    assert piece.coarse == "own layers"
    return piece.coarse_options


def convolutions(net: ParallelNetwork) -> list[tuple[int, ...]]:
    modules = net.coarse["2"].modules()
    return [tuple(m.weight.shape) for m in modules if isinstance(m, nn.Conv2d)]


def test_dear_wide_layers_are_narrow() -> None:
    model, x = plain(3, 64, 64, 128, 128, 128)
    net = compiled(model, x, "3")
    assert options(net)["narrow"] == 0.25
    assert convolutions(net) == [(32, 64, 3, 3), (128, 32, 1, 1)]
    whole = compiled(model, x, "3", coarse_rank=1)
    assert options(whole)["narrow"] == 1
    assert convolutions(whole) == [(128, 64, 3, 3)]
    assert net.plan.pieces[1].coarse_seconds < 0.5 * whole.plan.pieces[1].coarse_seconds
    assert not net.coarse["2"](torch.zeros(2, 64, 16, 16)).any()
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.coarse["2"].parameters())


def test_cheap_own_layers_stay_whole() -> None:
    """One of 30 equal layers is less than the share that matters."""
    assert SMALL > 1 / 30
    model, x = plain(3, *(64 for _ in range(32)), size=8)
    net = compiled(model, x, "3")
    assert options(net)["narrow"] == 1
    assert convolutions(net) == [(64, 64, 3, 3)]


class Block(nn.Module):
    """A residual block, whose convolution does not stand alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


class Twice(nn.Module):
    """A convolution that stands alone once, and once does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.last = nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(torch.relu(self.first(x)))
        x = x + torch.relu(self.conv(x))
        return self.last(x)


def test_layers_that_do_not_stand_alone_stay_whole() -> None:
    x = torch.randn(2, 3, 8, 8)
    stem = nn.Conv2d(3, 64, 3, padding=1)
    blocks = seeded(lambda: nn.Sequential(stem, *(Block() for _ in range(4))))
    grouped = seeded(lambda: nn.Sequential(stem, *(nn.Conv2d(64, 64, 3, 1, 1, groups=2),) * 2))
    for model, at in ((blocks, "1"), (seeded(Twice), "first"), (grouped, "0")):
        net = compiled(model, x, at)
        assert options(net)["narrow"] == 1
        assert not any(shape[2:] == (1, 1) for shape in convolutions(net))


def test_of_repeated_layers_the_cheapest_is_kept() -> None:
    """Behind the pooling a layer costs a quarter; where all cost as much it is the first."""
    model, x = plain(3, 16, 16, 16, 16, pool=(2,))
    net = compiled(model, x, "1")
    seen: list[tuple[int, ...]] = []
    (layer,) = (m for m in net.coarse["2"].modules() if isinstance(m, nn.Conv2d))
    layer.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape)))
    net.coarse["2"](torch.randn(2, 16, 16, 16))
    assert seen == [(2, 16, 8, 8)]
    first = compiled(model, x, "1", OwnLayers(by_batch=False))
    assert net.plan.pieces[1].coarse_seconds < 0.5 * first.plan.pieces[1].coarse_seconds
    even, x = plain(3, 16, 16, 16)
    layers = compiled(even, x, "1").coarse["2"].layers.items()
    assert [name for name, m in layers if isinstance(m, nn.Conv2d)] == ["2"]


def kept(launch: float, kind: OwnLayers | str = "network") -> set[str]:
    """Layers that a coarse network of a vision transformer keeps, where a launch takes so long."""
    model = seeded(lambda: models.vit(4, width=32, heads=4, patch=7, size=14))
    net = pararealize(
        model,
        2,
        example_inputs=(torch.zeros(1, 1, 14, 14),),
        method=Parareal(coarse=kind, coarse_budget=1),
        machine=Machine(launch_seconds=launch),
        verify=False,
    )
    return {name.split("_")[2] for name in net.coarse["2"].layers}


def test_of_repeated_layers_the_quickest_is_kept() -> None:
    """Attention has fewer operations than two wide layers, and more launches."""
    assert kept(0.0) == {"attention"}
    assert kept(1e-3) == {"mlp"}
    assert kept(1e-3, OwnLayers(by_batch=False, cheapest=True)) == {"attention"}


def test_plans_that_say_nothing_of_it_have_the_first_whole() -> None:
    earlier = {"kind": "own layers", "depth": 1, "by_batch": False}
    assert described(earlier) == OwnLayers(
        1, by_batch=False, narrow=1.0, cheapest=False, quickest=False
    )
    assert described({"kind": "network", "depth": 2}) == Network(2, rank=1.0)


def test_narrow_layers_are_saved(tmp_path: Any) -> None:
    model, x = plain(3, 64, 64, 128, 128, 128)
    net = compiled(model, x, "3").eval()
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", model).eval()
    assert options(again) == options(net)
    assert torch.equal(again(x), net(x))


@pytest.mark.rest
def test_a_vgg_16_keeps_nine_tenths_of_what_its_cuts_allow() -> None:
    """Of the speed of its subnetworks without guesses, corrections and messages."""
    with torch.device("meta"):
        model = models.vgg16()
    request = Request(3, Parareal(), None, Machine(), verify=False)
    request, chain = verified(model.to_empty(device="cpu"), request, chain_of)
    passes = PararealPasses(request, model, 0, None)
    for n in (2, 3):
        plan = passes.price(passes.cut(chain, n))
        *others, last = (piece.seconds for piece in plan.pieces)
        assert max(*others, last + plan.head_seconds) / plan.parallel_seconds > 0.9
        assert {piece.coarse for piece in plan.pieces[1:]} == {"own layers"}
