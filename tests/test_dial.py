"""Sweeps decided while the network runs: what is computed, how far it goes, who decides.

In float64. Networks as in `test_laws`: a step computes the same sums as the serial one, or as that
of a fixed number of sweeps; only adjoints may be added in another order.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from local_transport import LocalGroup
from networks import Case, Recipe, assert_equal_steps, compiled, seeded, step
from pararealize import Parareal, pararealize
from pararealize.errors import MethodError, PeerError
from pararealize.runtime.monitoring.measures import Measure
from pararealize.runtime.runners.graph import GraphRunner
from sampling import pairwise

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: Sums of a few dozen terms of the order of one, each rounded to 1e-16.
ROUNDING = 1e-12
N = 4

every_correction = pytest.mark.parametrize("correction", ["residual", "difference"])
every_guess = pytest.mark.parametrize("guess", ["network", "coarse"])


def case(family: str = "dense", *, dropout: str = "", **options: Any) -> Case:
    """Nine layers with BatchNorm in four subnetworks."""
    return Case(Recipe(family, 9, norm="batch", dropout=dropout), N, Parareal(**options))


# how far it goes


@pytest.mark.parametrize(
    ("family", "iterations", "correction", "guess"),
    pairwise(["dense", "skip"], [0, 1, 2, 6], ["residual", "difference"], ["network", "coarse"]),
)
def test_zero_is_the_serial_network(
    family: str, iterations: int, correction: str, guess: str
) -> None:
    """Law 4: outputs, gradients, statistics and masks; the second step starts from moved ones."""
    here = case(
        family,
        dropout="module",
        correction=correction,
        guess=guess,
        iterations=iterations,
        tolerance=0.0,
    )
    model = here.model()
    net = here.compile(model)
    for seed in range(2):
        found, wanted = step(net, model, here.x, seed), step(model, model, here.x, seed)
        assert_equal_steps(found, wanted, ROUNDING)
        assert net.report.sweeps == N


@pytest.mark.parametrize(
    ("iterations", "correction", "guess"),
    pairwise([0, 1, 3], ["residual", "difference"], ["network", "coarse"]),
)
def test_infinity_is_the_static_network(iterations: int, correction: str, guess: str) -> None:
    """Bit for bit, and it leaves the random numbers where that leaves them."""
    options = {"correction": correction, "guess": guess, "iterations": iterations}
    static = case(dropout="module", **options)
    model, dialled = static.model(), replace(static.method, tolerance=math.inf)
    nets = [static.compile(), replace(static, method=dialled).compile()]
    for seed in range(2):
        steps, states = [], []
        for net in nets:
            steps.append(step(net, model, static.x, seed))
            states.append(draw_after(net, static.x))
        assert_equal_steps(*steps, 0.0)
        assert torch.equal(*states)
    assert nets[1].report.sweeps == iterations


def draw_after(net: nn.Module, x: Tensor) -> Tensor:
    with seeded(1), torch.no_grad():
        net.eval()(x)
        net.train()(x)
        return torch.rand(3)


@every_correction
def test_it_stops_at_the_first_sweep_that_meets_the_tolerance(correction: str) -> None:
    """And is then the network of as many sweeps."""
    base = case("skip", correction=correction, tolerance=0.0)
    model = base.model()
    whole = base.compile()
    step(whole, model, base.x)
    worst: dict[int, float] = {}
    for jump in whole.report.jumps:
        assert len(jump.samples) == len(base.x)
        worst[jump.sweep] = max(worst.get(jump.sweep, 0.0), *jump.samples)
    assert sorted(worst) == [0, 1, 2]
    for tolerance in (0.99 * min(worst.values()), *worst.values(), 1.01 * max(worst.values())):
        met = [sweep + 1 for sweep, size in worst.items() if size <= tolerance]
        expected = min(met, default=N)
        here = replace(base, method=replace(base.method, tolerance=tolerance))
        method = replace(base.method, tolerance=None, iterations=expected)
        static = replace(base, method=method, interfaces=whole.plan.cuts)  # those of one sweep
        net = here.compile()
        found = step(net, model, here.x)
        assert net.report.sweeps == expected
        assert net.report.largest == worst[min(expected - 1, N - 2)]
        assert_equal_steps(found, step(static.compile(), model, here.x), ROUNDING)


def test_nothing_is_evaluated_twice() -> None:
    """Piece j is, until it is exact: j times; after k sweeps the first k are left alone."""
    net = case(tolerance=0.0).compile()
    calls: Counter[str] = Counter()
    for name, part in net.propagators.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    net(case().x)
    assert {name: count for name, count in calls.items() if name[:4] == "fine"} == {
        f"fine.{j}": j for j in range(1, N + 1)
    }
    assert [calls[f"guess.{j}"] for j in range(1, N)] == [1] * (N - 1)
    assert [calls[f"coarse.{j}"] for j in range(2, N + 1)] == [1, 2, 3]


def test_coarse_propagators_that_are_exact_need_one_sweep() -> None:
    here = case(coarse="fine", correction="difference", tolerance=1e-14)
    net, model = here.compile(), here.model()
    assert_equal_steps(step(net, model, here.x), step(model, model, here.x), ROUNDING)
    assert net.report.sweeps == 2  # the first has jumps, after the second there are none


class Shared(nn.Module):
    """One BatchNorm in every layer, and a layer that counts its calls in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(8))
        self.counts = Counts()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(self.norm(x)))
        return self.counts(x)


class Counts(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


def test_law_10_statistics_of_shared_layers_move_as_in_the_serial_network() -> None:
    model, x = Shared().double(), torch.randn(6, 5, dtype=torch.float64)
    net = pararealize(model, N, method=Parareal(tolerance=0.0), example_inputs=(x,))
    for _ in range(2):
        net(x), model(x)
    assert torch.allclose(net.norm.running_var, model.norm.running_var, rtol=ROUNDING, atol=0)
    assert int(net.norm.num_batches_tracked) == int(model.norm.num_batches_tracked) == 16
    assert net.counts.calls == model.counts.calls == 2


@pytest.mark.parametrize("tolerance", [0.0, 0.8])
def test_devices_do_what_one_does(tolerance: float) -> None:
    here = case("skip", tolerance=tolerance)
    model = here.model()
    one = compiled(here.model(), N, here.method, here.x)
    several = compiled(here.model(), N, here.method, here.x, devices=["cpu"] * 3)
    assert_equal_steps(step(several, model, here.x), step(one, model, here.x), ROUNDING)
    assert several.report.sweeps == one.report.sweeps
    assert sorted(map(str, several.report.jumps)) == sorted(map(str, one.report.jumps))


# who decides


@dataclass
class Until:
    """A rule of a test's own, that keeps what it was asked."""

    sweeps: int
    asked: list[tuple[Sequence[Measure], Any]] = field(default_factory=list)

    def is_enough(self, measures: Sequence[Measure], output: Any) -> bool:
        self.asked.append((measures, output))
        return max(measure.sweep for measure in measures) + 1 >= self.sweeps


def test_another_rule_decides_by_all_jumps_and_the_output() -> None:
    rule, here = Until(3), case("dense", tolerance=0.0)
    net = here.compile()
    net.rule = rule
    output = net(here.x)
    assert net.report.sweeps == 3
    assert [len(measures) for measures, _ in rule.asked] == [3, 5, 6]
    assert torch.equal(rule.asked[-1][1], output)
    assert not rule.asked[-1][1].requires_grad
    for measure in rule.asked[-1][0]:
        assert measure.norms.shape == measure.scales.shape == (len(here.x),)
        assert measure.norms.dtype == torch.float64


def test_without_a_rule_there_is_only_the_graph() -> None:
    here = case(tolerance=0.0)
    net = here.compile()
    net.rule = None
    assert isinstance(net.runner, GraphRunner)
    assert len(net.stages) == N
    static = replace(here, method=Parareal()).compile()
    assert static.code == net.code
    assert static.stages == (static.schedule,)
    model = here.model()
    for seed in range(2):
        steps = [step(network, model, here.x, seed) for network in (net, static)]
        assert_equal_steps(*steps, 0.0)


def test_torch_compile_takes_the_first_stage() -> None:
    here = case(tolerance=0.0)
    net, static = here.compile().eval(), replace(here, method=Parareal()).compile().eval()
    whole = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(whole(here.x), static(here.x))
    assert not torch.equal(net(here.x), static(here.x))


# on ranks


@dataclass
class Falls:
    """A hook that fails the second time that a layer is evaluated."""

    calls: int = 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            raise ValueError("no way on")


def test_a_failure_in_a_later_stage_ends_all_ranks() -> None:
    x, group = torch.randn(3, 4), LocalGroup(3, patience=30)
    found: dict[int, BaseException] = {}
    method = Parareal(tolerance=0.0, coarse="identity")
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]

    def work(rank: int) -> None:
        net = compiled(nn.Sequential(*layers), 3, method, x, comm=group.member(rank))
        for name, layer in net.named_modules():
            if name == "5.0":
                layer.register_forward_hook(Falls())
        try:
            net(x)
        except (ValueError, PeerError) as error:
            found[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [type(found[rank]) for rank in range(3)] == [PeerError, PeerError, ValueError]
    assert any("rank 2 of 3" in note for note in found[2].__notes__)
    assert "rank 2 of 3 stopped" in str(found[0])


def test_slices_of_the_batch_are_refused() -> None:
    with pytest.raises(MethodError, match="chunks=2: where a tolerance decides"):
        pararealize(
            nn.Linear(2, 2), 1, method=Parareal(tolerance=0.1), comm=LocalGroup(1), chunks=2
        )
