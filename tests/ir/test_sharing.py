"""A device that subnetworks share: its numbers, and where it is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pararealize import Machine, Plan, one_gpu, pararealize
from pararealize.errors import MethodError
from pararealize.ir.machines import SHARED
from pararealize.ir.sharing import Sharing


@pytest.mark.parametrize(
    "values",
    [{"beside": 0.9}, {"wait": -1e-6}, {"share": 0.0}, {"share": 1.1}, {"share": "half"}],
)
def test_numbers_out_of_their_range_are_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(MethodError, match=rf"Sharing\({name}="):
        Sharing(**values)


def test_a_machine_is_shared_by_a_sharing() -> None:
    with pytest.raises(MethodError, match=r"expected a Sharing\(\)"):
        Machine(sharing=0.5)  # type: ignore[arg-type]


def test_devices_are_named_and_single_rates_given() -> None:
    assert one_gpu() == SHARED["h200"]
    assert one_gpu(launch_seconds=2e-6).launch_seconds == 2e-6
    with pytest.raises(MethodError, match="h200"):
        one_gpu("abacus")


def network() -> nn.Module:
    layers = (nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6))
    return nn.Sequential(*layers)


def test_one_device_is_not_several() -> None:
    x = torch.randn(2, 8)
    with pytest.raises(MethodError, match="leave sharing out"):
        pararealize(network(), 2, example_inputs=(x,), machine=one_gpu(), devices=["cpu", "cpu"])


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_a_plan_says_on_what_it_is_predicted() -> None:
    net = pararealize(network(), 2, example_inputs=(torch.randn(2, 8),), machine=one_gpu())
    assert "one device" in net.plan.verdict
    assert "devices" not in net.plan.verdict
    assert Plan.from_json(net.plan.to_json()) == net.plan
