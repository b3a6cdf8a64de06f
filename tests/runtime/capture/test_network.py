"""Captured networks answer as the networks do, in every order that events allow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import (
    MGRIT,
    CaptureWarning,
    ParallelNetwork,
    Parareal,
    Rehearsal,
    capture,
    pararealize,
)
from pararealize.errors import MethodError, RecompiledWarning, ShapeError
from pararealize.models import odenet, resnet
from pararealize.runtime.capture.network import CapturedNetwork
from pararealize.runtime.runners.lane_walk import Launching
from pararealize.runtime.runners.rank import RankRunner

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::pararealize.errors.InaccurateWarning"),
]


def chain(*parts: nn.Module, n: int = 3, **options: Any) -> ParallelNetwork:
    """A network of dense layers with the parts between them."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), *copy.deepcopy(parts), nn.Tanh()) for _ in range(n)]
    model = nn.Sequential(*layers, nn.Linear(6, 3)).double()
    names = [str(i) for i in range(n - 1)]
    method = Parareal(**options)
    return pararealize(model, n, method=method, example_inputs=(x_of(),), interfaces=names)


def x_of(batch: int = 4) -> Tensor:
    return torch.randn(batch, 6, dtype=torch.float64)


def images(**options: Any) -> tuple[ParallelNetwork, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model = resnet(20, width=4).double()
    return pararealize(model, 3, method=Parareal(**options), example_inputs=(x,)), x


OPTIONS: list[dict[str, Any]] = [
    {},
    {"correction": "difference", "guess": "coarse"},
    {"correction": "difference", "coarse": "fine"},
    {"iterations": 0},
    {"iterations": 2, "guess": "coarse"},
    {"iterations": 3, "correction": "difference"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("training", [True, False])
def test_replays_answer_as_calls_do_and_move_the_same(
    options: dict[str, Any], training: bool
) -> None:
    net, x = images(**options)
    net.train(training)
    twin = copy.deepcopy(net)
    device = Rehearsal("latest")
    fast = net.capture((x,), device=device)
    for k in range(3):
        found, wanted = fast(x + k), twin(x + k)
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=0)
        assert str(net.report) == str(twin.report)
        for one, other in zip(net.buffers(), twin.buffers(), strict=True):
            assert torch.equal(one, other)
    assert fast.cache.captures == 1
    assert device.races == []


def test_lanes_are_really_used_and_a_missing_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = images()
    device = Rehearsal("latest")
    net.capture((x,), device=device)
    assert device.races == []
    assert len(net.runner.lanes[0].launches) == len(net.schedule.tasks)
    monkeypatch.setattr(type(device.streams), "wait", lambda _self, _event: None)
    net.capture((x,), device=device)
    assert device.races
    assert "may still use" in str(device.races[0])


@pytest.mark.parametrize("options", [{"batched": "never"}, {"levels": 3, "coarsening": (2, 2)}])
def test_multigrid_takes_its_cycles(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = odenet(16, width=6, in_features=5, classes=3).double(), torch.randn(7, 5).double()
    method = MGRIT(**{"coarsening": 4, "coarse": "rediscretized", **options})
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    device = Rehearsal("latest")
    fast = capture(net, (x,), device=device)
    assert torch.equal(fast(2 * x), net(2 * x))
    assert device.races == []
    assert [program.races() for program in net.runner.lanes] == [(), ()]


@pytest.mark.parametrize("tolerance", [1e-12, 10.0])
def test_the_host_decides_between_stages(tolerance: float) -> None:
    net = chain(iterations=1, tolerance=tolerance).eval()
    twin, x, device = copy.deepcopy(net), x_of(), Rehearsal("latest")
    fast = net.capture((x,), device=device)
    for k in range(3):
        assert torch.equal(fast(x * (k + 1)), twin(x * (k + 1)))
        assert str(net.report) == str(twin.report)
    assert fast.cache.captures == (1 if tolerance > 1 else len(net.stages))
    assert device.races == []
    with pytest.raises(MethodError, match="in train mode"):
        net.train().capture((x,), device=device)


def test_strict_networks_capture_later_stages_when_they_are_needed() -> None:
    net = chain(iterations=1, tolerance=0.5).eval()
    twin, device = copy.deepcopy(net), Rehearsal("latest")
    near = torch.zeros(4, 6).double()
    fast = net.capture((near,), device=device, strict=True)
    for x in (near, 10 * x_of(), near):
        assert torch.equal(fast(x), twin(x))
        assert net.report.sweeps == twin.report.sweeps
    with pytest.raises(ShapeError, match="strict=True"):
        fast(x_of(2))


def test_a_serial_module_can_be_captured_as_well() -> None:
    model, x = resnet(20, width=4).double().eval(), torch.randn(2, 3, 16, 16).double()
    fast = capture(model, (x,), device=Rehearsal())
    assert torch.equal(fast(x + 1), model(x + 1))


# random numbers


@pytest.mark.parametrize(
    "options",
    [
        {"correction": "difference", "coarse": "fine"},
        {"iterations": 3, "correction": "difference"},
        {"iterations": 2, "guess": "coarse"},
    ],
)
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.AlphaDropout(0.3), nn.RReLU()])
def test_masks_are_new_each_replay_and_one_a_step(
    options: dict[str, Any], layer: nn.Module
) -> None:
    net, x = chain(layer, **options), x_of()
    fast = net.capture((x,), device=Rehearsal())
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(fast(x))
        torch.manual_seed(seed)
        assert torch.equal(found[-1], net(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_capturing_draws_nothing() -> None:
    net, x = chain(nn.Dropout(0.5)), x_of()
    before = torch.get_rng_state()
    net.capture((x,), device=Rehearsal())
    assert torch.equal(before, torch.get_rng_state())


def test_multigrid_with_masks_is_refused() -> None:
    torch.manual_seed(0)
    model = odenet(16, width=6, in_features=6, classes=3).double()
    for step in model.steps:
        step.linear = nn.Sequential(step.linear, nn.Dropout(0.5))
    net = pararealize(model, 4, method=MGRIT(coarsening=2), example_inputs=(x_of(),))
    with pytest.raises(MethodError, match="draws random numbers"):
        net.capture((x_of(),), device=Rehearsal(), strict=True)


# shapes


def test_a_shape_runs_at_first_and_is_captured_when_it_comes_again() -> None:
    net = chain().eval()
    fast = net.capture(device=Rehearsal(), graphs=2)
    for batch, captures in [(4, 0), (4, 1), (4, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 4), (3, 4)]:
        x = x_of(batch)
        assert torch.equal(fast(x), net(x))
        assert fast.cache.captures == captures
        assert len(fast.cache) <= 2


def test_strict_runs_nothing_that_was_not_captured() -> None:
    net, x = chain().eval(), x_of()
    fast = net.capture((x,), device=Rehearsal(), strict=True)
    assert torch.equal(fast(x), net(x))
    with pytest.raises(ShapeError, match=r"float64\[2, 6\].*strict=True"):
        fast(x_of(2))
    fast.prepare(x_of(2))
    assert fast(x_of(2)).shape == (2, 3)


def test_answers_are_copies_unless_memory_is_wanted() -> None:
    net, x = chain().eval(), x_of()
    fast = net.capture((x,), device=Rehearsal())
    kept = fast(x)
    before = kept.clone()
    fast(x + 1)
    assert torch.equal(kept, before)
    fast = net.capture((x,), device=Rehearsal(), copies=False)
    kept = fast(x)
    assert fast(x + 1) is kept


# what graphs cannot follow


def in_place(net: ParallelNetwork) -> None:
    net.load_state_dict({name: 2 * value for name, value in net.state_dict().items()})


def assigned(net: ParallelNetwork) -> None:
    state = {name: 2 * value for name, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def replaced(net: ParallelNetwork) -> None:
    weight = net.get_parameter("1.0.weight")
    net.get_submodule("1.0").weight = nn.Parameter(2 * weight.detach())


def moved(net: ParallelNetwork) -> None:
    weight = net.get_parameter("1.0.weight")
    weight.data = 3 * weight.data


def hook(net: ParallelNetwork) -> None:
    net.get_submodule("1.0").register_forward_hook(lambda _m, _a, output: 2 * output)


def pre_hook(net: ParallelNetwork) -> None:
    net.get_submodule("2").register_forward_pre_hook(lambda _m, args: (2 * args[0],))


def attribute(net: ParallelNetwork) -> None:
    net.get_submodule("1.1").eps = 0.5  # type: ignore[assignment]


def module(net: ParallelNetwork) -> None:
    torch.manual_seed(5)
    net.get_submodule("1")[0] = nn.Linear(6, 6).double()  # type: ignore[operator]


def part_mode(net: ParallelNetwork) -> None:
    net.get_submodule("1.1").train()


def mode(net: ParallelNetwork) -> None:
    net.train()


def dtype(net: ParallelNetwork) -> None:
    net.float().double()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (in_place, ""),
        (assigned, "lies elsewhere"),
        (replaced, "lies elsewhere"),
        (moved, "lies elsewhere"),
        (dtype, "lies elsewhere"),
        (hook, "hook"),
        (attribute, "attribute"),
        (module, "module was replaced"),
        (part_mode, "mode"),
    ],
)
def test_what_a_graph_cannot_follow_is_captured_anew(change: Any, why: str) -> None:
    net, x = chain(nn.BatchNorm1d(6)).eval(), x_of()
    fast = net.capture((x,), device=Rehearsal())
    before = fast(x)
    change(net)
    found, wanted = fast(x), net(x)
    assert torch.equal(found, wanted)
    assert torch.equal(found, before) is (change is dtype and torch.equal(wanted, before))
    assert fast.cache.captures == (2 if why else 1)
    assert why in fast.cache.why


def test_modes_have_graphs_of_their_own() -> None:
    net, x = chain(nn.BatchNorm1d(6)), x_of()
    twin = copy.deepcopy(net)
    fast = net.capture(device=Rehearsal())
    for k in range(8):
        net.train(k % 2 == 0)
        twin.train(k % 2 == 0)
        assert torch.equal(fast(x), twin(x))
    assert fast.cache.captures == 2


def test_unwatched_graphs_go_on() -> None:
    net, x = chain().eval(), x_of()
    fast = net.capture((x,), device=Rehearsal(), watches=False)
    before = fast(x)
    replaced(net)
    assert torch.equal(fast(x), before)
    fast.cache.clear()
    assert torch.equal(fast(x), net(x))


class Scaled(nn.Module):
    """A factor that the trace takes over."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
        self.factor = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.layers(x)


def test_changed_attributes_are_followed_by_replays() -> None:
    x = x_of()
    net = pararealize(Scaled().double(), 2, example_inputs=(x,)).eval()
    fast = net.capture((x,), device=Rehearsal())
    step = net.capture_step(Tensor.mean, (x,), device=Rehearsal())
    before = fast(x)
    net.original.factor = 3.0
    with pytest.warns(RecompiledWarning, match="factor"):
        found = fast(x)
    assert torch.equal(found, net(x))
    assert not torch.equal(found, before)
    assert fast.cache.captures == 2
    net.original.factor = 4.0
    with pytest.warns(RecompiledWarning, match="factor"):
        value = step(x)
    assert torch.equal(value, net(x).mean())


# bad input


class Clipping(nn.Module):
    """Whose shape depends on numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x.sum(1) > -1e9]


class Deciding(nn.Module):
    """Which Python decides by a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum().item() > 0 else x


@pytest.mark.parametrize("layer", [Clipping(), Deciding()])
def test_layers_that_depend_on_numbers_run_without_a_graph(layer: nn.Module) -> None:
    torch.manual_seed(0)
    parts = (nn.Linear(6, 6), layer, nn.Linear(6, 6), nn.Linear(6, 6))
    model = nn.Sequential(*parts).double().eval()
    net = model
    fast = capture(net, device=Rehearsal())
    x = x_of()
    assert torch.equal(fast(x), net(x))
    with pytest.warns(CaptureWarning, match="It runs without one"):
        assert torch.equal(fast(x), net(x))
    assert torch.equal(fast(x + 1), net(x + 1))  # it is not tried again
    with pytest.raises(MethodError, match="cannot record"):
        capture(net, (x,), device=Rehearsal(), strict=True)


def test_inputs_have_to_be_such_as_graphs_take() -> None:
    net, x = chain().eval(), x_of()
    fast = net.capture((x,), device=Rehearsal())
    with pytest.raises(MethodError, match="lies on meta"):
        fast(x.to("meta"))
    with pytest.raises(MethodError, match="is a Unhashable"):
        CapturedNetwork(nn.Identity(), Rehearsal())(object.__new__(Unhashable))
    with pytest.raises(MethodError, match="answers without gradients"):
        fast(x.requires_grad_())
    with torch.no_grad():
        assert fast(x).shape == (4, 3)
    with pytest.raises(MethodError, match="keeps none"):
        net.capture(device=Rehearsal(), graphs=0)


class Unhashable:
    """Neither a tensor nor to be compared."""

    __hash__ = None  # type: ignore[assignment]


def test_no_capture_inside_a_capture() -> None:
    net, x, device = chain().eval(), x_of(), Rehearsal()
    fast = net.capture(device=device)

    class Preparing(nn.Module):
        def forward(self, x: Tensor) -> Any:
            fast.prepare(x)

    with pytest.raises(MethodError, match="capture inside a capture"):
        capture(Preparing(), (x,), device=device)
    fast.prepare(x)

    class Calling(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return fast(x)

    outer = capture(Calling(), (x,), device=device)
    assert torch.equal(outer(x + 1), net(x + 1))  # a part of the outer graph


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_sentence_says_so() -> None:
    net, x = chain(), x_of()
    for make in (net.capture, lambda: net.capture_step(nn.functional.mse_loss)):
        with pytest.raises(MethodError, match="need a CUDA device"):
            make()
    with pytest.raises(MethodError, match="need a CUDA device"):
        capture(nn.Linear(2, 2), (x,))


def test_the_network_has_to_lie_on_the_device() -> None:
    with pytest.raises(MethodError, match="weight lies on meta"):
        capture(nn.Linear(2, 2, device="meta"), device=Rehearsal())


def test_several_devices_have_no_lanes_in_common() -> None:
    torch.manual_seed(0)
    net = pararealize(
        nn.Sequential(*(nn.Linear(6, 6) for _ in range(4))).double(),
        2,
        example_inputs=(x_of(),),
        devices=["cpu", "cpu"],
    )
    with pytest.raises(MethodError, match="devices="):
        _ = net.runner.lanes


def test_ranks_have_no_lanes() -> None:
    runner = object.__new__(RankRunner)
    with pytest.raises(MethodError, match="without comm="):
        _ = runner.lanes
    with pytest.raises(MethodError, match="several ranks"):
        runner.decided(Launching(Rehearsal().streams))


def test_autocast_is_part_of_what_is_captured() -> None:
    net = chain().float().eval()
    x = x_of().float()
    fast = net.capture(device=Rehearsal())
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast(x), net(x))
        assert torch.equal(fast(x), net(x))
    assert fast.cache.captures == 2
