"""A loaded network answers bit for bit as the saved one, whatever measurements would say now."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize import MGRIT, ParallelNetwork, Parareal, load, pararealize
from pararealize.cost import depth_batching
from pararealize.emit import runner
from pararealize.models import odenet

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
METHODS = [
    MGRIT(coarsening=4),
    MGRIT(coarsening=2, levels=3, batched="always"),
    MGRIT(coarsening=4, batched="fastest"),
    MGRIT(coarsening=4, coarse="fitted"),
    MGRIT(coarsening=2, levels=3, coarse="fitted", forward_cycles=2),
    MGRIT(coarsening=4, coarse="mean", storage="points"),
    Parareal(coarse="auto", guess="coarse"),
    Parareal(coarse="rediscretized", correction="difference"),
    Parareal(coarse="network", iterations=2),
    Parareal(coarse="factored", correction="difference", guess="coarse"),
]


def trained(net: ParallelNetwork) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.3)
    for _ in range(3):
        optimizer.zero_grad()
        net(X).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_nothing_is_measured_again(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks answer at random, and errors are measured on other weights."""

    def chance(*_: Any, **__: Any) -> tuple[float, float]:
        return 10 ** random.uniform(-3, 3), 10 ** random.uniform(-3, 3)

    for module in (depth_batching, runner):
        monkeypatch.setattr(module, "medians", chance)
    torch.manual_seed(0)
    random.seed(0)
    model = odenet(13, width=8, in_features=6)
    net = pararealize(model, 4, method=method, example_inputs=(X,), cost="measured", verify=False)
    trained(net)
    net.save(tmp_path)
    for _ in range(2):  # one draw of the clocks may be as the first was
        other = odenet(13, width=8, in_features=6)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(20)
        again = load(tmp_path, other, verify=False)
        assert again.plan == net.plan
        assert again.schedule == net.schedule
        assert torch.equal(again.eval()(X), net.eval()(X))
        again.save(tmp_path)


def test_a_head_stays_where_it_was(tmp_path: Path) -> None:
    """Costs decide on it, and these were measured ones."""
    torch.manual_seed(0)
    for seed in range(4):
        cost = "measured" if seed % 2 else "predicted"
        model = odenet(9 + seed, width=8, in_features=6)
        net = pararealize(model, 8, method=Parareal(coarse="auto"), cost=cost)
        net.save(tmp_path)
        again = load(tmp_path, odenet(9 + seed, width=8, in_features=6))
        assert again.plan.head == net.plan.head
        assert torch.equal(again(X), net(X))
