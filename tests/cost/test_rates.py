"""Rates of this machine, and of messages between threads that stand for ranks."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from local_ranks import on_ranks
from pararealize import one_gpu
from pararealize.cost.measure import low
from pararealize.cost.rates import machine_for, measured_machine
from pararealize.errors import MethodError
from pararealize.ir.plan import Machine


def test_a_device() -> None:
    before = torch.get_rng_state()
    found = measured_machine()
    assert torch.equal(before, torch.get_rng_state())
    assert 1e9 < found.flops_per_second < 1e14
    assert 1e8 < found.bytes_per_second < 1e13
    assert 1e-7 < found.launch_seconds < 1e-2
    assert found.link_latency == Machine().link_latency


def test_all_ranks_have_the_rates_of_the_first_and_its_link() -> None:
    one, two = on_ranks(2, measured_machine)
    assert one == two
    assert 0 < one.link_latency < 0.1
    assert one.link_bandwidth > 1e6


def test_the_lower_quartile() -> None:
    assert low([4.0, 1.0, 2.0, 3.0]) == 2.0
    assert low([5.0]) == 5.0


class Elsewhere(nn.Module):
    """A network that says it lies on a device of this kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        yield SimpleNamespace(device=torch.device(self.kind))


def test_a_network_alone_on_a_cuda_device_is_compiled_for_its_streams() -> None:
    assert machine_for(Elsewhere("cuda"), None, places=False) == one_gpu()
    assert machine_for(Elsewhere("cuda"), None, places=True) == Machine()
    assert machine_for(Elsewhere("cpu"), None, places=False) == Machine()
    asked = Machine(launch_seconds=1e-6)
    assert machine_for(Elsewhere("cuda"), asked, places=False) is asked
    with pytest.raises(MethodError, match="leave sharing out"):
        machine_for(Elsewhere("cpu"), one_gpu(), places=True)
