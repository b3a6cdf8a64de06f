"""Forecasts for many devices, from the same predictions as plans."""

import pytest
import torch
from torch import nn

from networks import TanhBlock as Block
from pararealize import MGRIT, Machine, Parareal, pararealize
from pararealize.cost.alternatives import pipelined, replicated
from pararealize.errors import MethodError
from pararealize.forecast import forecast, meshes
from pararealize.ir.forecast import Work
from pararealize.ir.machines import DEVICES, LINKS, machine_of

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
#: Layers that take a millisecond, so that launches and messages do not decide.
SLOW = Machine(flops_per_second=1e5)
INPUTS = (torch.zeros(8, 4),)


def chain(depth: int = 12) -> nn.Sequential:
    return nn.Sequential(*(Block() for _ in range(depth)))


@pytest.mark.parametrize(
    "method",
    [Parareal(), Parareal(coarse="fine", guess="coarse"), MGRIT(coarsening=2, coarse="identity")],
)
def test_estimates_are_what_plans_predict(method: Parareal | MGRIT) -> None:
    model = chain()
    found = forecast(model, [1, 2, 3], method=method, machine=SLOW, example_inputs=INPUTS)
    for estimate in found.estimates[1:]:
        plan = pararealize(
            model, estimate.n, method=method, machine=SLOW, example_inputs=INPUTS
        ).plan
        assert estimate.seconds == pytest.approx(plan.parallel_seconds)
        assert found.serial.seconds == pytest.approx(plan.serial_seconds)
        assert estimate.message == max(piece.interface_bytes for piece in plan.pieces)


def test_one_device_is_serial_and_too_many_are_refused() -> None:
    found = forecast(chain(), [1, 2, 99], machine=SLOW, example_inputs=INPUTS)
    one, two, many = found.estimates
    assert one.seconds == one.pipeline == found.serial.seconds
    assert "n=99 subnetworks need 98 interfaces" in many.refused
    assert found.best is two


def test_nothing_pays_where_launches_decide() -> None:
    slow = Machine(link_latency=1.0)
    assert forecast(chain(), [1, 2, 4], machine=slow, example_inputs=INPUTS).best is None


def test_a_network_that_grows_takes_as_many_corrections_more() -> None:
    found = forecast(chain(24), [2, 4, 8], machine=SLOW, example_inputs=INPUTS)
    two, four, eight = found.estimates
    added = four.weak_serial - two.weak_serial  # of two subnetworks
    assert eight.weak_serial - four.weak_serial == pytest.approx(2 * added)
    assert None not in {two.weak, four.weak, eight.weak}
    assert (eight.weak or 0) - (four.weak or 0) < added / 2  # four corrections, and no subnetwork
    assert (eight.weak or 0) > (four.weak or 0)
    multigrid = forecast(
        chain(24), [2, 4], method=MGRIT(coarsening=2), machine=SLOW, example_inputs=INPUTS
    )
    assert all(e.weak is None for e in multigrid.estimates)


def test_pipelines_and_replicas() -> None:
    work = Work(1.0, 0, 8, 4_000_000, 0, Machine(link_latency=0.0, link_bandwidth=1e9))
    assert pipelined(work, 1) == 1.0
    assert pipelined(work, 4) == pytest.approx(11 / 8 / 4)  # (m + n - 1) / (m n)
    one = Work(1.0, 0, 1, 0, 0, work.machine)
    assert pipelined(one, 4) == pytest.approx(1.0)  # one sample fills no pipeline
    assert replicated(one, 2) is None
    assert replicated(work, 4) == 0.25
    summed = 2 * 3 / 4 * 4e6 / 1e9 / 3
    assert replicated(work, 4, training=True) == pytest.approx(0.25 + summed)


def test_launches_are_made_by_every_replica_and_for_every_micro_batch() -> None:
    work = Work(1.0, 1000, 8, 0, 0, Machine(launch_seconds=1e-3, link_latency=0.0))
    assert work.busy == 0.0
    assert replicated(work, 8) == 1.0
    assert pipelined(work, 2) == pytest.approx(1.0)  # of one micro-batch: more launch again


def test_training_takes_memory_for_gradients_and_moments() -> None:
    step, call = (
        forecast(chain(), [2], machine=SLOW, example_inputs=INPUTS, training=training)
        for training in (True, False)
    )
    assert step.estimates[0].memory > call.estimates[0].memory


def test_meshes_take_the_fastest_split() -> None:
    by_replicas = {
        parts: forecast(
            chain(), [1, 2, 4], machine=SLOW, example_inputs=(torch.zeros(8 // parts, 4),)
        )
        for parts in (1, 2, 4)
    }
    found = meshes(by_replicas, [1, 2, 4, 16])
    assert [(mesh.devices, mesh.replicas * mesh.n) for mesh in found] == [
        (devices, devices) for devices in (1, 2, 4, 16)
    ]
    assert found[1].replicas == 2  # which need no corrections
    seconds = [mesh.seconds for mesh in found]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("link", LINKS)
def test_machines_by_name(device: str, link: str) -> None:
    machine = machine_of(device, link, launch_seconds=0.5)
    assert machine.launch_seconds == 0.5
    assert machine.link_bandwidth == LINKS[link].bandwidth


def test_unknown_names_say_those_that_there_are() -> None:
    with pytest.raises(MethodError, match="device 'tpu': expected one of core, a100, h100"):
        machine_of("tpu", "nvlink")
    with pytest.raises(MethodError, match="expected numbers of subnetworks"):
        forecast(chain(), [])
