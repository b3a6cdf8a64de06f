"""Forecasts for many devices, from the same predictions as plans."""

import copy
import time
from typing import Any

import pytest
import torch
from torch import nn

from networks import TanhBlock as Block
from pararealize import MGRIT, Machine, Parareal, pararealize
from pararealize.coarse import builder
from pararealize.cost.alternatives import pipelined, replicated
from pararealize.errors import MethodError
from pararealize.explain import scaling
from pararealize.forecast import forecast, forecasts, meshes
from pararealize.ir.forecast import Work
from pararealize.ir.machines import DEVICES, LINKS, machine_of
from pararealize.models import odenet, resnet, vgg16
from pararealize.tracing.module import copy_sharing_weights

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


@pytest.mark.parametrize("network", ["resnet", "vgg", "ode"])
@pytest.mark.parametrize(
    "method",
    [Parareal(coarse="thinned"), Parareal(coarse_depth=2, iterations=2), MGRIT(3, 2, "sampled")],
    ids=["thinned", "two sweeps", "mgrit"],
)
def test_like_subnetworks_are_priced_once_and_right(
    network: str, method: Parareal | MGRIT, monkeypatch: pytest.MonkeyPatch
) -> None:
    if network == "vgg" and isinstance(method, MGRIT):
        method = Parareal(guess="coarse", correction="difference")
    model: nn.Module = {
        "resnet": lambda: resnet(56, width=4),
        "vgg": lambda: vgg16(head="small", classes=10, width=4),
        "ode": lambda: odenet(32, width=8, in_features=6),
    }[network]()
    counts = [2, 8] if network == "ode" else [2, 4]
    found = forecast(model, counts, method=method, machine=SLOW)
    made = 0
    one = builder._build

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        return one(*args, **options)

    monkeypatch.setattr(builder, "_build", counted)
    for estimate in found.estimates:
        plan = pararealize(model, estimate.n, method=method, machine=SLOW).plan
        assert estimate.seconds == pytest.approx(plan.parallel_seconds)
        assert estimate.message == max(piece.interface_bytes for piece in plan.pieces)
    built, made = made, 0
    forecast(model, counts, method=method, machine=SLOW)
    assert made <= built
    assert network != "ode" or isinstance(method, MGRIT) or made < built


def test_weights_are_not_copied_and_the_model_stays() -> None:
    model = nn.Sequential(*(Block() for _ in range(6)), nn.BatchNorm1d(4))
    before = copy.deepcopy(model.state_dict())
    twin = copy_sharing_weights(model)
    own = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in twin.parameters()} == own
    assert not {b.data_ptr() for b in twin.buffers()} & {b.data_ptr() for b in model.buffers()}
    assert {id(p) for p in twin.parameters()}.isdisjoint(id(p) for p in model.parameters())
    forecast(model, [2, 4], machine=SLOW, example_inputs=INPUTS)
    forecast(model, [2], method=MGRIT(coarsening=2), machine=SLOW, example_inputs=INPUTS)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_several_methods_are_those_of_their_own_forecasts() -> None:
    methods = [Parareal(), Parareal(iterations=3), MGRIT(coarsening=2, coarse="mean")]
    each = forecasts(chain(), [1, 2, 4], methods, machine=SLOW, example_inputs=INPUTS)
    for method, found in zip(methods, each, strict=True):
        assert found.method == method
        alone = forecast(chain(), [1, 2, 4], method=method, machine=SLOW, example_inputs=INPUTS)
        assert [e.seconds for e in found.estimates] == [e.seconds for e in alone.estimates]
    once, thrice, _ = (found.estimates[-1].seconds for found in each)
    assert once < thrice
    assert scaling.fastest(each) is each[0]
    text = str(scaling.compared(each))
    assert "→ parareal, 1 sweep " in text
    assert "MGRIT, 2 levels by 2" in text


def test_depth_takes_no_quadratic_time() -> None:
    """256 subnetworks of 512 layers in seconds: the pieces of a cut are few, and alike."""
    begin = time.process_time()
    found = forecast(chain(512), [4, 256], machine=SLOW, example_inputs=INPUTS)
    assert not any(e.refused for e in found.estimates)
    assert time.process_time() - begin < 30  # 3 are usual


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
