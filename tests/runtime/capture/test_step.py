"""Captured training steps train as loops do that are written by hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, Parareal, Rehearsal, capture_step, pararealize
from pararealize.errors import MethodError, ShapeError
from pararealize.models import odenet
from pararealize.runtime.capture.step import CapturedStep
from pararealize.runtime.runners.lane_weights import LaneWeights

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::pararealize.errors.InaccurateWarning"),
]
mse = nn.functional.mse_loss


class Tied(nn.Module):
    """Blocks of which two, in different subnetworks, share a weight."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.layers[3].weight = self.layers[0].weight
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(drop)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.5 * torch.tanh(layer(x))
        return self.drop(self.norm(x)) * self.scale


def network(drop: float = 0.0, n: int = 4, **options: Any) -> ParallelNetwork:
    torch.manual_seed(0)
    model = Tied(drop).double()
    return pararealize(model, n, method=Parareal(**options), example_inputs=data()[:1])


def data(batch: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 6).double(), torch.randn(batch, 6).double()


def by_hand(
    net: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    batches: list[tuple[Tensor, ...]],
    loss: Callable[..., Tensor] = mse,
    max_norm: float | None = None,
) -> Tensor:
    """A step as it is usually written; batches accumulate."""
    net.zero_grad()
    for x, *targets in batches:
        value = loss(net(x), *targets)
        (value / len(batches)).backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(net.parameters(), max_norm)
    if optimizer is not None:
        optimizer.step()
    return value.detach()


def assert_alike(net: nn.Module, twin: nn.Module, tolerance: float = 1e-12) -> None:
    """Sums over lanes and losses may be rounded otherwise."""
    for (name, one), other in zip(
        net.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=name)
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"correction": "difference", "coarse": "fine"},
        {"correction": "difference", "guess": "coarse", "iterations": 2},
        {"coarse": "rediscretized", "correction": "difference", "n": 2},
        {"iterations": 0},
    ],
)
def test_steps_leave_the_gradients_of_a_backward_pass(options: dict[str, Any]) -> None:
    net = network(**options)
    twin, device = copy.deepcopy(net), Rehearsal("latest")
    step = net.capture_step(mse, data(), device=device)
    for _ in range(3):
        x, y = data()
        found, wanted = step(x, y), by_hand(twin, None, [(x, y)])
        assert torch.equal(found, wanted)
        assert_alike(net, twin)
    assert (step.cache.captures, device.races) == (1, [])


def learning_rate(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def sgd(weights: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=0.1, **options)


OPTIMIZERS: list[tuple[Callable[..., torch.optim.Optimizer], bool]] = [
    (lambda p: sgd(p, momentum=0.9), True),
    (lambda p: sgd(p, weight_decay=0.1), True),
    (lambda p: torch.optim.SGD(p, lr=learning_rate(0.1), momentum=0.9), False),
    (lambda p: torch.optim.AdamW(p, lr=0.1), False),
    (lambda p: torch.optim.RMSprop(p, lr=0.01), False),
]


@pytest.mark.parametrize(("make", "inside"), OPTIMIZERS)
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_optimizers_step_inside_the_graph_or_behind_it(
    make: Callable[..., torch.optim.Optimizer], inside: bool, max_norm: float | None
) -> None:
    net = network()
    twin = copy.deepcopy(net)
    mine, other = (make(each.parameters()) for each in (net, twin))
    step = net.capture_step(mse, optimizer=mine, max_norm=max_norm, device=Rehearsal("latest"))
    for _ in range(5):
        x, y = data()
        step(x, y)
        by_hand(twin, other, [(x, y)], max_norm=max_norm)
        assert_alike(net, twin, 1e-9)
    assert step._mover.is_inside is inside
    assert step.cache.captures == 1


@pytest.mark.parametrize("tensor", [True, False])
def test_schedules_of_learning_rates_are_followed(tensor: bool) -> None:
    net = network()
    twin = copy.deepcopy(net)
    lr: Any = learning_rate(0.1) if tensor else 0.1
    mine, other = (torch.optim.SGD(e.parameters(), lr=copy.copy(lr)) for e in (net, twin))
    schedules = [torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5) for o in (mine, other)]
    step = net.capture_step(mse, optimizer=mine, device=Rehearsal("latest"))
    for _ in range(8):
        x, y = data()
        step(x, y)
        by_hand(twin, other, [(x, y)])
        for schedule in schedules:
            schedule.step()
        assert_alike(net, twin, 1e-9)
    # Where the graph had the optimizer in it, it is outside from the first change on.
    assert step.cache.captures == (1 if tensor else 2)
    assert not step._mover.is_inside


@pytest.mark.parametrize("name", ["weight_decay", "momentum", "maximize"])
def test_other_options_of_an_optimizer_are_noticed(name: str) -> None:
    net = network()
    twin = copy.deepcopy(net)
    mine, other = (sgd(each.parameters(), momentum=0.5, weight_decay=0.1) for each in (net, twin))
    step = net.capture_step(mse, optimizer=mine, device=Rehearsal())
    for k in range(6):
        for optimizer in (mine, other):
            optimizer.param_groups[0][name] = k > 3 if name == "maximize" else 0.5 * (k > 3)
        x, y = data()
        step(x, y)
        by_hand(twin, other, [(x, y)])
        assert_alike(net, twin)
    assert step.cache.captures == 2


def test_hooks_of_an_optimizer_run_at_every_step() -> None:
    net, seen = network(), []
    optimizer = sgd(net.parameters())
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    step = net.capture_step(mse, optimizer=optimizer, device=Rehearsal())
    for _ in range(4):
        step(*data())
    assert len(seen) == 4


def test_capturing_trains_nothing() -> None:
    net = network(drop=0.5)
    before = copy.deepcopy(net.state_dict())
    optimizer = sgd(net.parameters())
    torch.manual_seed(1)
    state, examples = torch.get_rng_state(), data()
    torch.set_rng_state(state)
    net.capture_step(mse, examples, optimizer=optimizer, device=Rehearsal())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("captured", [True, False])
def test_gradients_accumulate(captured: bool) -> None:
    net = network()
    twin = copy.deepcopy(net)
    mine, other = (torch.optim.Adam(each.parameters(), lr=0.01) for each in (net, twin))
    examples = data() if captured else ()
    step = net.capture_step(
        mse, examples, optimizer=mine, accumulate=3, max_norm=0.1, device=Rehearsal()
    )
    for _ in range(2):
        batches = [data() for _ in range(3)]
        for batch in batches:
            step(*batch)
        by_hand(twin, other, batches, max_norm=0.1)
        assert_alike(net, twin, 1e-8)


@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_a_scaler_scales(max_norm: float | None) -> None:
    net = network().float()
    twin = copy.deepcopy(net)
    mine, other = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (net, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    step = net.capture_step(
        mse, optimizer=mine, scaler=scaler, max_norm=max_norm, device=Rehearsal()
    )
    for _ in range(4):
        x, y = (t.float() for t in data())
        step(x, y)
        by_hand(twin, other, [(x, y)], max_norm=max_norm)
        for one, two in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert scaler.get_scale() == 4096.0


def test_autocast_is_asked_for_or_in_force() -> None:
    net = network().float()
    twin = copy.deepcopy(net)
    step = net.capture_step(mse, autocast=torch.bfloat16, device=Rehearsal("latest"))
    plain = twin.capture_step(mse, device=Rehearsal("latest"))
    x, y = (t.float() for t in data())
    for _ in range(3):
        found = step(x, y).clone()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(plain(x, y), found)
            wanted = mse(twin(x), y)
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("options", [{"correction": "difference", "coarse": "fine"}, {}])
def test_masks_are_new_each_step(options: dict[str, Any]) -> None:
    net = network(drop=0.5, **options)
    twin = copy.deepcopy(net)
    step = net.capture_step(mse, data(), device=Rehearsal())
    x, y = data()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(step(x, y).clone())
        torch.manual_seed(seed)
        assert torch.equal(found[-1], by_hand(twin, None, [(x, y)]))
        assert_alike(net, twin)
    assert not torch.equal(*found)


def test_multigrid_and_recurrent_layers_train() -> None:
    torch.manual_seed(0)
    model, x, y = (
        odenet(16, width=6, in_features=5, classes=3),
        torch.randn(7, 5),
        torch.randn(7, 3),
    )
    method = MGRIT(coarsening=4, coarse="rediscretized", batched="never")
    net = pararealize(model.double(), 4, method=method, example_inputs=(x.double(),))
    twin, device = copy.deepcopy(net), Rehearsal("latest")
    step = net.capture_step(mse, (x.double(), y.double()), device=device)
    step(2 * x.double(), y.double())
    by_hand(twin, None, [(2 * x.double(), y.double())])
    assert_alike(net, twin)
    assert device.races == []
    lstm = Recurrent().double()
    wanted = copy.deepcopy(lstm)
    sequence = torch.randn(3, 4, 6).double()
    step = capture_step(lstm, lambda out: out.square().sum(), (sequence,), device=Rehearsal())
    step(sequence)
    wanted(sequence).square().sum().backward()
    assert_alike(lstm, wanted)


class Recurrent(nn.Module):
    """Whose layer keeps its weights in a list as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x)[0]
        return made


def test_a_calibrated_network_trains_with_the_sweeps_asked_for() -> None:
    net = network(tolerance=1e-9)
    once = network()
    once.load_state_dict(net.state_dict())
    step = net.capture_step(mse, data(), device=Rehearsal("latest"))
    x, y = data()
    assert torch.equal(step(x, y), by_hand(once, None, [(x, y)]))
    assert_alike(net, once)


# what lies around a step


def test_an_old_graph_that_is_still_held_does_no_harm() -> None:
    """Its nodes add gradients up where they were made, which is no lane of the capture."""
    net, (x, y) = network(), data()
    old = mse(net(x), y)  # holds where every leaf's gradient is added up
    twin = copy.deepcopy(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step = net.capture_step(mse, (x, y), device=Rehearsal("latest"))
        step(x, y)
    by_hand(twin, None, [(x, y)])
    assert_alike(net, twin)
    old.backward()


def test_every_lane_has_leaves_of_its_own() -> None:
    net = network(correction="difference", coarse="fine")
    weights = LaneWeights([net])
    shared = net.get_parameter("layers.0.weight")
    with weights.on(0):
        mine = net.get_submodule("layers.0").weight
        with weights.on(1, net.propagators["fine.1"]):
            other = net.get_submodule("layers.0").weight
            assert net.get_submodule("layers.3").weight is other
            assert len({id(shared), id(mine), id(other)}) == 3
            assert shared.data_ptr() == mine.data_ptr() == other.data_ptr()
        assert net.get_submodule("layers.0").weight is mine
    assert net.get_submodule("layers.0").weight is shared
    value = (mine * 2).sum() + (other * 3).sum() + shared.sum()
    found = dict(zip(map(id, weights.weights), weights.gradients(value), strict=True))
    assert torch.equal(found[id(shared)], torch.full_like(shared, 6.0))


def test_hooks_of_weights_see_the_sum() -> None:
    net = network()
    twin, (x, y) = copy.deepcopy(net), data()
    for each in (net, twin):
        each.get_parameter("layers.0.weight").register_hook(lambda gradient: gradient.clamp(max=0))
    step = net.capture_step(mse, (x, y), device=Rehearsal())
    step(x, y)
    by_hand(twin, None, [(x, y)])
    assert_alike(net, twin)


def test_hooks_that_wait_for_sums_are_refused() -> None:
    net = network()
    weight = net.get_parameter("scale")
    weight.register_post_accumulate_grad_hook(lambda _weight: None)
    with pytest.raises(MethodError, match="register_post_accumulate_grad_hook"):
        net.capture_step(mse, data(), device=Rehearsal())
    with pytest.raises(MethodError, match="after step"):
        net.capture_step(mse, device=Rehearsal())(*data())


def weight_hook(net: ParallelNetwork) -> None:
    net.get_parameter("scale").register_hook(lambda gradient: 2 * gradient)


def frozen(net: ParallelNetwork) -> None:
    net.get_submodule("layers.1").requires_grad_(False)


def replaced(net: ParallelNetwork) -> None:
    layer = net.get_submodule("layers.1")
    layer.weight = nn.Parameter(2 * layer.weight.detach())  # type: ignore[operator]


def hook(net: ParallelNetwork) -> None:
    net.get_submodule("layers.2").register_forward_hook(lambda _m, _a, output: 2 * output)


def probability(net: ParallelNetwork) -> None:
    net.get_submodule("drop").p = 0.0  # type: ignore[assignment]


def evaluating(net: ParallelNetwork) -> None:
    net.eval()


@pytest.mark.parametrize("change", [frozen, replaced, hook, weight_hook, probability, evaluating])
def test_changes_are_noticed(change: Callable[[ParallelNetwork], None]) -> None:
    net = network(drop=0.4)
    step = net.capture_step(mse, data(), device=Rehearsal())
    step(*data())
    change(net)
    net.zero_grad()
    twin, (x, y) = copy.deepcopy(net), data()
    if change is weight_hook:  # which copies of weights have not
        change(twin)
    for _ in range(3):
        torch.manual_seed(3)
        found = step(x, y).clone()
        torch.manual_seed(3)
        assert torch.equal(found, by_hand(twin, None, [(x, y)]))
        assert_alike(net, twin)
    assert step.cache.captures == 2


def test_an_average_of_the_weights_follows() -> None:
    net = network()
    mean = torch.optim.swa_utils.AveragedModel(net.original)
    step = net.capture_step(mse, data(), optimizer=sgd(net.parameters()), device=Rehearsal())
    for _ in range(2):
        before = net.get_parameter("scale").detach().clone()
        step(*data())
        mean.update_parameters(net.original)
        assert not torch.equal(before, net.get_parameter("scale"))
    moved = mean.module.get_parameter("scale")
    assert not torch.equal(moved, net.get_parameter("scale"))


# bad input


def test_strict_and_options_say_what_is_wrong() -> None:
    net = network()
    step = net.capture_step(mse, data(), strict=True, device=Rehearsal())
    step(*data())
    with pytest.raises(ShapeError, match="strict=True"):
        step(*data(3))
    with pytest.raises(MethodError, match="lies on meta"):
        step(*(t.to("meta") for t in data()))
    for wrong in ({"accumulate": 0}, {"inputs": 0}, {"max_norm": 0.0}, {"max_norm": -1.0}):
        with pytest.raises(MethodError, match="capture_step"):
            net.capture_step(mse, device=Rehearsal(), **wrong)
    with pytest.raises(MethodError, match="give optimizer="):
        net.capture_step(mse, device=Rehearsal(), scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(MethodError, match="takes 2 tensors"):
        net.capture_step(mse, device=Rehearsal(), inputs=2)(data()[0])
    with pytest.raises(MethodError, match="cannot record"):
        net.capture_step(deciding, data(), device=Rehearsal())
    assert isinstance(step, CapturedStep)


def deciding(output: Tensor, target: Tensor) -> Tensor:
    """A loss that Python looks at."""
    value = mse(output, target)
    return value * 2 if value.item() > 1 else value


class Summed(nn.Module):
    """Two weights whose gradients autograd gives as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.one + self.other)


@pytest.mark.parametrize("captured", [True, False])
def test_what_a_step_does_not_reach_has_no_gradient(captured: bool) -> None:
    model, (x, y) = Summed(), (t.float() for t in data())
    model.unused = nn.Parameter(torch.ones(2))
    model.unused.grad = torch.ones(2)
    step = capture_step(model, mse, (x, y) if captured else (), device=Rehearsal())
    step(x, y)
    assert model.unused.grad is None
    assert model.one.grad is not None


@pytest.mark.parametrize("captured", [True, False])
def test_gradients_have_memory_of_their_own(captured: bool) -> None:
    model, (x, y) = Summed(), (t.float() for t in data())
    step = capture_step(model, mse, (x, y) if captured else (), device=Rehearsal())
    step(x, y)
    first, second = model.one.grad, model.other.grad
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    first.zero_()
    assert second.abs().sum() > 0


@pytest.mark.parametrize("batched", ["never", "always"])
def test_means_of_weights_are_taken_in_every_replay(batched: str) -> None:
    torch.manual_seed(0)
    model = odenet(8, width=6, in_features=6, classes=6).double()
    method = MGRIT(coarsening=2, coarse="mean", batched=batched)
    (x, y), device = data(), Rehearsal("latest")
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    twin, optimizers = copy.deepcopy(net), []
    for each in (net, twin):
        optimizers.append(torch.optim.SGD(each.parameters(), lr=0.5))
    step = net.capture_step(mse, (x, y), optimizer=optimizers[0], device=device)
    fast = net.capture((x,), device=device)
    for k in range(3):
        found, wanted = step(x + k, y), by_hand(twin, optimizers[1], [(x + k, y)])
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        assert_alike(net, twin)
        for each in (fast, net):
            torch.testing.assert_close(each(x).detach(), twin(x).detach(), rtol=1e-12, atol=1e-12)
    assert device.races == []
