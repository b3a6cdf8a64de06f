"""Costs before building are those of what is built, of every kind over every range of layers."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from networks import Language, Recipe, UNet, build, chain_of, example, recipes, small_chain
from pararealize import MGRIT, Parareal
from pararealize.chain.interfaces import build_chain
from pararealize.coarse import registry
from pararealize.coarse.generic import Generic
from pararealize.coarse.guesses import build_guesses, guess_costs
from pararealize.coarse.kind import CoarseKind, costs_of
from pararealize.coarse.registry import asked
from pararealize.coarse.setting import Setting, Site, input_names, main_input
from pararealize.cost.profile import profile
from pararealize.errors import CoarseError
from pararealize.ir.chain import Chain, Cost, Partition, TensorSpec
from pararealize.ir.plan import Machine, Tracing
from pararealize.ir.target import Target
from pararealize.tracing.blocks import trace_network
from sampling import examples

#: Sums of the same operations' costs in another order, and differences of sums over the chain.
ROUNDING = 1e-9


class PostActivation(nn.Module):
    """Blocks of two layers, relu(x + φ(x)), with dropout that copies leave out."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.map, self.drop, self.scale = nn.Linear(width, width), nn.Dropout(0.1), scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.scale * self.drop(self.map(x)))


class Pair(nn.Module):
    """Blocks of two residual layers, the second a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.bias = nn.Linear(width, width), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.tanh(self.first(x))
        return x + self.bias


class Row(nn.Module):
    """Parts one after another."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.parts(x)
        return result


PARTS = {
    "a": lambda: PostActivation(4, 0.1),
    "b": lambda: PostActivation(4, 0.2),
    "p": lambda: Pair(4),
    "r": nn.ReLU,
    "d": lambda: nn.Dropout(0.2),
    "n": lambda: nn.BatchNorm1d(4),
    "l": lambda: nn.Linear(4, 4),
    "w": lambda: nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 4)),
    "f": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten()),
}
words = st.lists(st.text("abprdnlwf", min_size=1, max_size=3), min_size=1, max_size=3)


@lru_cache(maxsize=256)
def of_word(word: str) -> tuple[Chain, nn.Module]:
    model = Row(nn.Linear(3, 4), *(PARTS[letter]() for letter in word)).double()
    return chain_of(model, torch.randn(5, 3).double(), 8), model


@lru_cache(maxsize=256)
def of_recipe(recipe: Recipe, width: int) -> tuple[Chain, nn.Module]:
    model = build(recipe)
    return chain_of(model, example(recipe), width), model


@lru_cache
def of_blocks() -> tuple[Chain, nn.Module]:
    model, inputs = Language(), {"tokens": torch.zeros(2, 5, dtype=torch.long)}
    traced = trace_network(model, Tracing(blocks="trunk.blocks"), inputs)
    return build_chain(model, traced, profile(traced.train, model, inputs, Machine())), model


networks = st.one_of(
    st.builds(lambda parts: of_word("".join(part * 2 for part in parts)), words),
    st.builds(of_recipe, recipes(), st.sampled_from((1, 8))),
    st.sampled_from(("resnet", "vgg", "ode")).map(small_chain),
    st.builds(of_blocks),
)
depths = st.integers(0, 4)


@st.composite
def spans(draw: st.DrawFn) -> tuple[Chain, nn.Module, int, int]:
    chain, model = draw(networks)
    first = draw(st.integers(0, len(chain.layers) - 1))
    return chain, model, first, draw(st.integers(first + 1, len(chain.layers)))


def kinds_of(method: Parareal) -> list[CoarseKind]:
    found = [family.of(method, 1) for family in registry.KINDS]
    found += [family.of(MGRIT(samples=3)) for family in registry.KINDS]
    return list(dict.fromkeys((*found, *registry.candidates(), *registry.substitutes())))


def agree(found: Cost, wanted: Cost, chain: Chain) -> None:
    total = chain.cost(0, len(chain.layers))
    assert found.launches == wanted.launches
    for name in ("seconds", "flops", "bytes"):
        value, other = getattr(found, name), getattr(wanted, name)
        assert value == pytest.approx(other, rel=ROUNDING, abs=ROUNDING * getattr(total, name))


def check(kind: CoarseKind, site: Site, cost: Cost | None) -> None:
    try:
        built = kind.build(site)
    except CoarseError:
        built = None
    assert (cost is None) == (built is None), kind
    if cost is not None and built is not None:
        agree(cost, built.cost, site.setting.chain)


@given(spans(), st.sampled_from(("residual", "difference")), depths, st.sampled_from((0.3, 1.0)))
@settings(max_examples=examples(60), deadline=None)
def test_every_kind_costs_what_is_built(
    span: tuple[Chain, nn.Module, int, int], correction: str, depth: int, budget: float
) -> None:
    chain, model, first, last = span
    method = Parareal(correction=correction, coarse_depth=depth, coarse_budget=budget)
    setting = Setting.of(chain, model, Machine(), method)
    site = Site(setting, first, last, 1)
    with torch.random.fork_rng():
        for kind in kinds_of(method):
            cost = next(islice(kind.costs(setting, first), last - first - 1, None))
            check(kind, site, cost)


@given(spans(), st.sampled_from(("stepped", "thinned")), depths)
@settings(max_examples=examples(30), deadline=None)
def test_what_is_built_instead_is_counted(
    span: tuple[Chain, nn.Module, int, int], name: str, depth: int
) -> None:
    chain, model, first, last = span
    method = Parareal(name, "difference", coarse_depth=depth)
    setting, kind = Setting.of(chain, model, Machine(), method), asked(method)
    site = Site(setting, first, last, 1)
    found = (choice.build(site) for choice in (kind, *kind.instead))
    built = next((choice for choice in found if choice is not None), None)
    costs = list(costs_of(kind, setting, first))
    cost = costs[last - first - 1]
    assert len(costs) == len(chain.layers) - first
    assert (cost is None) == (built is None)
    if cost is not None and built is not None:
        agree(cost, built.cost, chain)


@given(networks, st.data())
@settings(max_examples=examples(40), deadline=None)
def test_guesses_cost_what_is_built(network: tuple[Chain, nn.Module], data: st.DataObject) -> None:
    chain, model = network
    size = len(chain.layers)
    layer = data.draw(st.integers(1, size - 1)) if size > 1 else None
    setting = Setting.of(chain, model, Machine(), Parareal())
    costs = guess_costs(setting, size)
    assert len(costs) == size
    assert costs[0] == Cost()
    if layer is None:
        return
    partition = Partition(chain, (0, layer, size))
    try:
        built = build_guesses(partition, setting, Parareal(), frozenset({Target.guess(1)}))
    except CoarseError:
        assert costs[layer] is None
        return
    found = costs[layer]
    assert found is not None
    agree(found, built[1].cost, chain)


@given(spans(), st.integers(1, 5))
@settings(max_examples=examples(40), deadline=None)
def test_levels_cost_what_is_built(span: tuple[Chain, nn.Module, int, int], stride: int) -> None:
    chain, model, first, last = span
    setting = Setting.of(chain, model, Machine(), MGRIT())
    for family in registry.measurable():
        kind = family.of(MGRIT())
        segment, _ = kind.coarsened(chain, first, last, stride)
        built = segment or chain.segment(first, last, training=True)
        costs = list(kind.level_costs(setting, first, stride))
        agree(costs[last - first - 1], chain.profile.cost(built.operations), chain)


def test_maps_between_leaves_are_built_once_whatever_lies_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prices of tuples are sums: no network of a whole state is made for any of the intervals."""
    model = UNet().double()
    chain = chain_of(model, torch.randn(3, 4).double(), 8)
    setting = Setting.of(chain, model, Machine(), Parareal())
    built: list[tuple[object, ...]] = []
    make = Generic._module

    def counted(self: Generic, setting: Setting, *states: Any) -> nn.Module | None:
        built.append(states[:2])
        return make(self, setting, *states)

    monkeypatch.setattr(Generic, "_module", counted)
    size = len(chain.layers)
    walks = [list(Generic(reads_all=True).costs(setting, first)) for first in range(size)]
    widest = max(len(interface.values) for interface in chain.interfaces)
    assert widest > 2
    assert len(built) == len(set(built)) < sum(map(len, walks))
    assert all(len(state) == 1 for states in built for state in states)


def test_the_main_input_is_the_only_tensor() -> None:
    chain, _ = small_chain("ode")
    assert main_input(chain) == TensorSpec((2, 5))
    assert input_names(chain) == ("inputs",)
