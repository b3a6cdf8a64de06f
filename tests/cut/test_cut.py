"""Cuts: exact, with heads, or where the user says."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pararealize import pararealize
from pararealize.chain.interfaces import build_chain
from pararealize.cost.inputs import infer_profile
from pararealize.cut.cut import HEAD_SHARE, Weights, check_count, cut, cut_at, head_start
from pararealize.cut.min_max import min_max
from pararealize.errors import CutError
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Machine
from pararealize.models import odenet, resnet, vgg16
from pararealize.tracing.trace import trace

Table = dict[tuple[int, int], float]
Bounds = tuple[int, ...]


def partitions(size: int, n: int) -> Iterator[Bounds]:
    for inner in combinations(range(1, size), n - 1):
        yield (0, *inner, size)


def key(bounds: Bounds, table: Table) -> tuple[float, float]:
    """What is minimised: the largest weight, then the sum of squares."""
    weights = [table[piece] for piece in pairwise(bounds)]
    return max(weights), sum(w * w for w in weights)


@cache
def chain_of(name: str) -> tuple[Chain, nn.Module]:
    model: nn.Module = {
        "mlp": lambda: nn.Sequential(*(nn.Linear(4, 4) for _ in range(8))),
        "resnet": lambda: resnet(20, width=4),
        "deep": lambda: resnet(110, width=4),
        "ode": lambda: odenet(12, width=8, in_features=6),
        "vgg": lambda: vgg16(head="small", classes=10, width=4),
    }[name]()
    traced = trace(model)
    return build_chain(model, traced, infer_profile(traced.train, model, Machine())), model


def with_seconds(chain: Chain, seconds: list[float]) -> Chain:
    layers = zip(chain.layers, seconds, strict=False)
    changed = [replace(layer, cost=layer.cost._replace(seconds=s)) for layer, s in layers]
    return replace(chain, layers=(*changed, *chain.layers[len(changed) :]))


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, Table]:
    size = draw(st.integers(1, 9))
    n = draw(st.integers(1, size))
    weight = st.floats(0, 10) if draw(st.booleans()) else st.integers(0, 3).map(float)
    return size, n, {(a, b): draw(weight) for a in range(size) for b in range(a + 1, size + 1)}


@given(tables())
@settings(max_examples=150, deadline=None)
def test_min_max_equals_brute_force(case: tuple[int, int, Table]) -> None:
    size, n, table = case
    bounds = min_max(size, n, lambda a, b: table[a, b])
    assert (bounds[0], bounds[-1], len(bounds)) == (0, size, n + 1)
    best = min(key(p, table)[0] for p in partitions(size, n))
    squares = min(key(p, table)[1] for p in partitions(size, n) if key(p, table)[0] <= best)
    assert key(bounds, table)[0] == pytest.approx(best, rel=1e-8, abs=1e-300)
    assert key(bounds, table)[1] <= squares * (1 + 1e-8) + 1e-300


@given(st.lists(st.floats(0.01, 5), min_size=2, max_size=9), st.data())
@settings(max_examples=80, deadline=None)
def test_a_lower_bound_changes_nothing(layers: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(layers)))
    extra = data.draw(st.lists(st.floats(0, 3), min_size=len(layers), max_size=len(layers)))

    def least(a: int, b: int) -> float:
        return sum(layers[a:b])

    def weight(a: int, b: int) -> float:
        return least(a, b) + extra[a]

    size = len(layers)
    pieces = {(a, b): weight(a, b) for a in range(size) for b in range(a + 1, size + 1)}
    found = key(min_max(size, n, weight, least), pieces)
    assert found == pytest.approx(key(min_max(size, n, weight), pieces))


@pytest.mark.parametrize(("size", "n"), [(3, 4), (0, 1), (3, 0)])
def test_more_pieces_than_positions(size: int, n: int) -> None:
    with pytest.raises(CutError, match=f"{size} layers cannot be cut into {n}"):
        min_max(size, n, lambda a, b: b - a)


@pytest.mark.parametrize("start", [0, 2])
def test_where_no_partition_is_known_it_has_equal_pieces(start: int) -> None:
    """No piece that begins at ``start`` or later has a finite weight."""
    assert min_max(9, 3, lambda a, _: inf if a >= start else 1.0) == (0, 3, 6, 9)


def test_a_partition_is_found_where_equal_pieces_have_no_weight() -> None:
    """No piece of two to four pieces of equal lengths may end at the middle or next to it."""

    def least(a: int, b: int) -> float:
        return float(b - a)

    def weight(a: int, b: int) -> float:
        return inf if b in {3, 4, 5} else least(a, b)

    assert [min_max(8, n, weight, least) for n in (2, 3, 4)] == [
        (0, 2, 8),
        (0, 2, 6, 8),
        (0, 1, 2, 6, 8),
    ]


@given(
    st.lists(st.floats(1e-6, 1e-3), min_size=8, max_size=8),
    st.integers(2, 5),
    st.integers(0, 3),
    st.sampled_from(["network", "fine", "identity", "factored"]),
    st.sampled_from(["network", "coarse"]),
)
@settings(max_examples=40, deadline=None)
def test_cut_of_a_chain_equals_brute_force(
    seconds: list[float], n: int, iterations: int, coarse: str, guess: str
) -> None:
    known, model = chain_of("mlp")
    chain, machine = with_seconds(known, seconds), Machine(link_latency=1e-4)
    method = Parareal(coarse=coarse, guess=guess, iterations=iterations)
    weights = Weights(chain, model, method, machine)
    # F(r) - F(0) of what does not keep zero; what is as long as the serial network is not weighed
    each = {"fine": 0, "factored": 2}.get(coarse, 1)
    end = head_start(chain, n)
    total = sum(seconds[:end])
    waits = 0.0
    if (
        coarse in {"network", "factored"} and guess == "coarse"
    ):  # all but the first wait for a coarse network
        waits = weights.coarse(0, next(i for i in range(end) if sum(seconds[:i]) >= total / n))
    table: Table = {}
    for a in range(end):
        for b in range(a + 1, end + 1):
            corrections = iterations * each * weights.coarse(a, b) if each else 0.0
            added = waits + weights.guesses[a] + corrections if a else 0.0
            at = b if b < end else a  # the last one waits for a message, and sends none
            sent = machine.message(chain.interfaces[at - 1].bytes) if at else 0.0
            table[a, b] = sum(seconds[a:b]) + added + sent
    bounds = cut(Weights(chain, model, method, machine), n).bounds
    assert key(bounds, table)[0] == pytest.approx(
        min(key(p, table)[0] for p in partitions(end, n)), rel=1e-8
    )


@pytest.mark.parametrize("name", ["resnet", "deep", "ode", "vgg"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_pieces_cover_the_chain_in_order(name: str, n: int) -> None:
    chain, model = chain_of(name)
    partition = cut(Weights(chain, model, Parareal(), Machine()), n)
    assert partition.n == n
    assert partition.bounds[0] == 0
    assert all(a < b for a, b in pairwise(partition.bounds))
    assert partition.bounds[-1] == head_start(chain, n)


def test_the_head_begins_after_the_last_repeated_layer() -> None:
    chain, _ = chain_of("deep")
    start = head_start(chain, 4)
    assert chain.layers[start - 1].name == "layer3.11"
    assert chain.layers[start].name == "bn"
    assert chain.layers[-1].name == "fc"
    total = chain.cost(0, len(chain.layers)).seconds
    assert chain.cost(start, len(chain.layers)).seconds <= HEAD_SHARE * total / 4


def test_the_head_of_a_dense_chain() -> None:
    chain, _ = chain_of("ode")
    assert chain.layers[head_start(chain, 3) - 1].name == "steps.11"


def test_one_piece_has_no_head() -> None:
    for name in ("resnet", "deep", "ode", "vgg", "mlp"):
        chain, model = chain_of(name)
        assert head_start(chain, 1) == len(chain.layers)
        assert cut(Weights(chain, model, Parareal(), Machine()), 1).bounds == (0, len(chain.layers))


def test_no_head_where_it_would_be_heavy() -> None:
    known, _ = chain_of("deep")
    assert head_start(known, 4) < len(known.layers)
    heavy = replace(known.layers[-1], cost=Cost(seconds=1.0))
    chain = replace(known, layers=(*known.layers[:-1], heavy))
    assert head_start(chain, 4) == len(chain.layers)


@pytest.mark.parametrize(("normalises", "is_head"), [(True, True), (False, False)])
def test_a_head_that_normalises_may_cost_more(normalises: bool, is_head: bool) -> None:
    """A coarse network in its place would give scores as large as the state."""
    known, _ = chain_of("deep")
    n, start = 4, head_start(known, 4)
    assert [layer.normalises for layer in known.layers[start:]][:1] == [True]
    total = known.cost(0, start).seconds
    heads = [replace(e, normalises=normalises, cost=Cost()) for e in known.layers[start:]]
    heads[-1] = replace(heads[-1], cost=Cost(seconds=0.15 * total / n))
    chain = replace(known, layers=(*known.layers[:start], *heads))
    assert (head_start(chain, n) == start) is is_head


def test_no_head_that_leaves_too_few_layers() -> None:
    chain, model = chain_of("resnet")
    n = len(chain.layers)
    assert head_start(chain, n) == n
    assert cut(Weights(chain, model, Parareal(), Machine()), n).bounds == tuple(range(n + 1))


def test_named_interfaces_are_cut_in_the_networks_order() -> None:
    chain, _ = chain_of("deep")
    for names in (["layer1", "layer2"], ["layer2", "layer1.11"]):
        partition = cut_at(chain, names, 3)
        assert [str(partition.interface(j)) for j in (1, 2)] == ["layer1.11", "layer2.11"]
        assert chain.layers[partition.bounds[-1]].name == "bn"


def test_a_cut_inside_the_head_leaves_none() -> None:
    chain, _ = chain_of("deep")
    assert cut_at(chain, ["relu"], 2).bounds == (0, len(chain.layers) - 3, len(chain.layers))


@pytest.mark.parametrize(
    ("names", "n", "message"),
    [
        (["layer1"], 3, "n=3 takes the names of 2 modules .* found 1: write n=2"),
        ([], 2, "found 0"),
        (["layer1", "layer1.1"], 3, "the same position twice"),
        (["layer9"], 2, "no module is called 'layer9'"),
        (["layer1.1.conv1"], 2, "cannot be cut after 'layer1.1.conv1'"),
    ],
)
def test_bad_interfaces(names: list[str], n: int, message: str) -> None:
    with pytest.raises(CutError, match=message):
        cut_at(chain_of("resnet")[0], names, n)


def test_too_many_pieces_say_how_many_are_possible() -> None:
    chain, _ = chain_of("mlp")
    check_count(chain, 8)
    with pytest.raises(CutError, match=r"n=9 subnetworks need 8 interfaces.*has 7 .*n=8 or less"):
        check_count(chain, 9)


@pytest.mark.parametrize("n", [2, 3, 6, 12, 18])
def test_the_heaviest_piece_of_resnet1001_is_near_the_best(n: int) -> None:
    """Guesses weigh as well: what has none, or a cheap one, may be longer by a dear one."""
    chain, model = deepest()
    weights = Weights(chain, model, Parareal(), Machine())
    bounds = cut(weights, n).bounds
    seconds = [layer.cost.seconds for layer in chain.layers]
    heaviest = max(sum(seconds[a:b]) for a, b in pairwise(bounds))
    guess = max(weights.guesses[a] for a in bounds[1:-1])
    assert guess <= 0.1 * sum(seconds) / n
    assert heaviest <= 1.05 * least_maximum(seconds, n) + guess


@cache
def deepest() -> tuple[Chain, nn.Module]:
    model = resnet(1001)
    traced = trace(model)
    return build_chain(model, traced, infer_profile(traced.train, model, Machine())), model


def least_maximum(weights: list[float], n: int) -> float:
    """The lightest heaviest run of ``n``, by bisection over greedy packings."""
    low, high = max(weights), sum(weights)
    for _ in range(60):
        middle = (low + high) / 2
        runs, load = 1, 0.0
        for weight in weights:
            runs, load = (runs, load + weight) if load + weight <= middle else (runs + 1, weight)
        low, high = (low, middle) if runs <= n else (middle, high)
    return high


@pytest.mark.parametrize("guess", ["network", "coarse"])
@pytest.mark.parametrize("build", [lambda: resnet(56), lambda: odenet(24, width=64)])
def test_the_exact_setting_is_balanced(build: Callable[[], nn.Module], guess: str) -> None:
    """Its corrections take as long as the serial network wherever it is cut."""
    method = Parareal("fine", "difference", 4, guess)
    pieces = pararealize(build(), 4, method=method, verify=False).plan.pieces
    seconds = [piece.seconds for piece in pieces]
    assert max(seconds) <= 1.15 * sum(seconds) / len(seconds)


class Modulated(nn.Module):
    """Every layer is scaled by a number of a second input, all of which cross every cut."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))
        self.scales = nn.Linear(4, 12)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        scales = self.scales(kind)
        for i, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(x)) * scales[:, i : i + 1]
        return x


class Summed(nn.Module):
    """The answers of all layers are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for layer in self.layers:
            x = torch.relu(layer(x))
            total = total + x
        return total


class Rotated(nn.Module):
    """Positions of a second input turn every layer's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        cosines, sines = positions.cos(), positions.sin()
        for layer in self.layers:
            y = layer(x)
            x = x + y * cosines + y.roll(1, -1) * sines
        return x


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [(Modulated, ((2, 8), (2, 4))), (Summed, ((2, 8),)), (Rotated, ((2, 8),) * 2)],
)
def test_guesses_of_the_exact_setting_do_not_weigh(
    kind: type[nn.Module], inputs: tuple[tuple[int, int], ...]
) -> None:
    """Their states are guessed by layers of their own, which take as long as computing them."""
    given = tuple(map(torch.randn, inputs))
    method = Parareal("fine", "difference")
    net = pararealize(kind(), 4, method=method, example_inputs=given, verify=False)
    seconds = [piece.seconds for piece in net.plan.pieces]
    assert max(seconds) <= 1.25 * sum(seconds) / len(seconds)


@pytest.mark.parametrize("depth", [1, 3])
def test_what_all_but_the_first_wait_for_is_weighed(depth: int) -> None:
    """Of all cuts into two the one chosen is predicted to be the fastest."""
    model = odenet(24, width=64)
    method = Parareal("stepped", "difference", guess="coarse", coarse_depth=depth)
    each = [
        pararealize(model, 2, method=method, interfaces=[f"steps.{i}"]).plan.parallel_seconds
        for i in range(8, 18)
    ]
    assert pararealize(model, 2, method=method).plan.parallel_seconds == pytest.approx(min(each))
