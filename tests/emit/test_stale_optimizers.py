"""Optimizers that were made of the model before it was compiled."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, StaleOptimizerWarning, load, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)))


def x() -> Tensor:
    return torch.ones(2, 3)


def compiled(serial: nn.Module) -> ParallelNetwork:
    return pararealize(serial, 2, example_inputs=(x(),))


def train(net: nn.Module, step: Callable[[], Any], calls: int = 5) -> list[str]:
    """The warnings of some training steps."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", StaleOptimizerWarning)
        for _ in range(calls):
            net(x()).sum().backward()
            step()
    return [str(w.message) for w in found if w.category is StaleOptimizerWarning]


class ByHand(torch.optim.Optimizer):
    """Writes on ``data``, of which no version says so."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.sub_(0.1 * p.grad)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, ByHand])
def test_it_is_said_once(kind: type[torch.optim.Optimizer]) -> None:
    serial = model()
    stale = kind(serial.parameters())
    net = compiled(serial)
    (text,) = train(net, stale.step)
    assert f"optimizer = {kind.__name__}(net.parameters()" in text


def test_one_of_a_loaded_networks_model_is_noticed(tmp_path: Path) -> None:
    compiled(model()).save(tmp_path / "net")
    serial = model()
    stale = torch.optim.Adam([{"params": serial[3].parameters()}])
    assert len(train(load(tmp_path / "net", serial), stale.step)) == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, ByHand])
def test_the_right_optimizer_is_right_whatever_else_there_is(
    kind: type[torch.optim.Optimizer],
) -> None:
    serial = model()
    before = torch.optim.SGD(serial.parameters())
    net = compiled(serial)
    right = kind(net.parameters())
    assert not train(net, right.step)
    assert not train(compiled(serial).eval(), lambda: None)
    accumulating = compiled(serial)
    optimizer = kind(accumulating.parameters())
    assert not train(accumulating, lambda: None)
    del before, optimizer


def test_nothing_is_said_where_there_is_none() -> None:
    serial = model()
    net = compiled(serial)
    assert not train(net, lambda: None)
    stale = torch.optim.SGD(serial.parameters())
    for twin in (copy.deepcopy(compiled(serial)), pickle.loads(pickle.dumps(compiled(serial)))):
        assert not train(twin, stale.step)
