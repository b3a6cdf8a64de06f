"""Measured costs: seconds of every layer, nothing moved by it."""

import copy
import time
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from pararealize import pararealize
from pararealize.chain.interfaces import build_chain
from pararealize.cost.inputs import infer_profile
from pararealize.cost.measure import REPEATS, measured, medians, turns
from pararealize.ir.chain import Chain
from pararealize.ir.plan import Machine
from pararealize.models import resnet
from pararealize.tracing.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def chain_of(model: nn.Module) -> Chain:
    traced = trace(model)
    return build_chain(model, traced, infer_profile(traced.train, model, Machine()))


def test_every_layer_is_measured_and_nothing_else_changes() -> None:
    model = resnet(11, width=4)
    before = chain_of(model)
    after = measured(before, model, {}, seed=0)
    assert after.interfaces == before.interfaces
    for old, new in zip(before.layers, after.layers, strict=True):
        assert new.cost.seconds > 0
        assert new.cost.seconds != old.cost.seconds
        assert replace(new, cost=old.cost) == old
        assert (new.cost.flops, new.cost.bytes) == (old.cost.flops, old.cost.bytes)


def test_operations_cost_the_seconds_of_their_layers() -> None:
    """So that coarse networks, which are made of them, are priced in the same seconds."""
    model = resnet(11, width=4)
    before = chain_of(model)
    after = measured(before, model, {}, seed=0)
    for i, layer in enumerate(after.layers):
        names = [o.name for o in after.segment(i, i + 1, training=True).operations]
        found = [after.profile.costs[name] for name in names if name in after.profile.costs]
        assert sum(cost.seconds for cost in found) == pytest.approx(layer.cost.seconds)
        old = [before.profile.costs[name] for name in names if name in before.profile.costs]
        assert [cost.flops for cost in found] == [cost.flops for cost in old]


def test_statistics_modes_and_random_state_stay() -> None:
    model = resnet(11, width=4)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measured(chain_of(model), model, {}, seed=0)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@torch.fx.wrap
def wait(x: Tensor, seconds: float) -> Tensor:
    if x.device.type == "cpu":
        time.sleep(seconds)
    return x


class Uneven(nn.Module):
    """One hidden cost among equal layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = wait(layer(x), 0.02 if i == 0 else 0.0)
        return x


def test_cuts_follow_what_was_measured() -> None:
    model = Uneven()
    predicted = pararealize(model, 2).plan
    found = pararealize(model, 2, cost="measured").plan
    assert predicted.pieces[0].depth > 2
    assert found.pieces[0].depth <= 2
    assert found.pieces[0].seconds >= 0.02


def test_measured_costs_reach_tuple_interfaces() -> None:
    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            a, b = x * 1, x * 2
            for layer in self.layers:
                a, b = torch.tanh(layer(b)), a + wait(b, 0.005)
            return a + b

    plan = pararealize(Crossing(), 3, cost="measured").plan
    assert plan.serial_seconds >= 0.02


def test_a_machine_that_slows_down_slows_all_layers_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as slow in the end; between the ends of one round only a sixth of that."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)))
    chain = chain_of(model)
    calls = count()
    looks = 2 * len(chain.layers) * (REPEATS + 1)

    def clock() -> float:
        """Seconds, of which every look at it takes more."""
        n = next(calls)
        return n + n**2 / (2 * looks)

    monkeypatch.setattr(time, "perf_counter", clock)
    seconds = [layer.cost.seconds for layer in measured(chain, model, {}, seed=0).layers]
    assert max(seconds) <= 1.15 * min(seconds)


def test_functions_take_turns_and_what_comes_before_is_not_timed() -> None:
    called: list[str] = []

    def wait() -> None:
        called.append("wait")
        time.sleep(0.02)

    calls = (lambda: called.append("a"), lambda: called.append("b"))
    found = turns(*calls, runs=2, before=wait)
    rounds = ["a", "b", "b", "a", "a", "b"]  # the first to warm up
    assert called == [step for name in rounds for step in ("wait", name)]
    assert [len(seconds) for seconds in found] == [2, 2]
    assert max(map(max, found)) < 0.02
    assert len(medians(*calls, runs=1)) == 2


def test_what_takes_long_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once more to warm up, however many runs were asked for."""
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    for enough, ran in ((3.0, 1), (4.0, 2), (100.0, 5)):
        found = turns(lambda: None, lambda: None, runs=5, enough=enough)
        assert [len(seconds) for seconds in found] == [ran, ran]
