"""LayerParallel: the serial chain at enough cycles, one set of parameters, TorchBraid's options."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from local_transport import LocalGroup
from pararealize import MGRIT, SlowerThanSerialWarning, pararealize
from pararealize.errors import MethodError
from pararealize.layers import EulerStep, LayerParallel

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

WIDTH, BATCH, STEPS = 6, 5, 12

#: As many cycles as slices: the serial chain, but for the order of a few sums.
EXACT: dict[str, Any] = {"slices": 3, "cfactor": 2, "max_iters": 3}
ROUNDING = 1e-12


class Block(nn.Module):
    """As in TorchBraid's examples, with an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh_()


def parallel(**options: Any) -> LayerParallel:
    return LayerParallel(None, Block, STEPS, 3.0, **options).double()


def example(width: int = WIDTH) -> Tensor:
    return torch.randn(BATCH, width, dtype=torch.float64)


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, the input's gradient and those of all parameters."""
    x = x.clone().requires_grad_()
    output = net(x)
    return [output, *torch.autograd.grad(output.square().sum(), [x, *net.parameters()])]


def assert_alike(found: list[Tensor], wanted: list[Tensor], tolerance: float = ROUNDING) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        a, b = one.detach().double(), other.detach().double()
        assert float((a - b).norm()) <= tolerance * float(b.norm())


def test_a_step_is_forward_euler_and_a_residual_layer() -> None:
    block = Block().double()
    step, x = EulerStep(block, 0.25), example()
    assert torch.equal(step(x), x + 0.25 * block(x))
    chain = nn.Sequential(*(EulerStep(Block(), 0.1) for _ in range(8)))
    net = pararealize(chain, 2, method=MGRIT(coarse="rediscretized", coarsening=2))
    assert net.plan.pieces[1].coarse == "rediscretized"


def test_it_is_the_serial_chain_at_enough_cycles() -> None:
    net, x = parallel(**EXACT), example()
    serial = net.to_serial()
    assert [step.dt for step in serial] == [0.25] * STEPS
    assert_alike(gradients(net, x), gradients(serial, x))
    assert_alike(gradients(net, x), gradients(net.to_serial(), x))


@pytest.mark.parametrize("slices", [2, 3, 5, STEPS])
def test_one_cycle_is_no_serial_chain(slices: int) -> None:
    """Every slice has a coarse propagator, also the first and the last."""
    net, x = parallel(slices=slices, cfactor=2), example()
    found, wanted = gradients(net, x), gradients(net.to_serial(), x)
    error = float(((found[0] - wanted[0]).norm() / wanted[0].norm()).detach())
    assert 1e-9 < error < 0.2
    names = [cut.removeprefix("%") for cut in net.network.plan.cuts]
    bounds = [j * STEPS // slices - 1 for j in range(1, slices)]
    assert names == [f"add_{end}" if end else "add" for end in bounds]


def test_the_first_and_the_last_step_are_part_of_the_coarse_chain() -> None:
    net = LayerParallel(None, Block, 4, 1.0, slices=2, coarse="mean")
    net(example().float())
    coarse = [net.network.propagators[f"coarse.{j}"].averages for j in (1, 2)]
    assert [sorted(averages.values()) for averages in coarse] == [
        [("0.block.linear", "1.block.linear")],
        [("2.block.linear", "3.block.linear")],
    ]


def test_a_slice_is_the_serial_chain() -> None:
    net, x = parallel(slices=1), example()
    assert_alike(gradients(net, x), gradients(net.to_serial(), x))


# parameters


def train(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


def test_an_optimizer_made_before_the_first_call_trains_everything() -> None:
    net, x = parallel(**EXACT), example()
    before = dict(net.named_parameters())
    serial = net.to_serial()
    train(net, torch.optim.SGD(net.parameters(), 1e-2), x)
    train(serial, torch.optim.SGD(serial.parameters(), 1e-2), x)
    after = dict(net.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert_alike(list(net.parameters()), list(serial.parameters()))
    assert_alike([net(x)], [serial(x)])  # and what runs is what was trained


def test_names_are_the_same_before_and_after_the_first_call() -> None:
    net = parallel(**EXACT)
    before = list(net.state_dict())
    net(example())
    assert list(net.state_dict()) == before
    assert before == [
        f"steps.{i}.block.linear.{k}" for i in range(STEPS) for k in ("weight", "bias")
    ]


@pytest.mark.parametrize("calls", [0, 1])
def test_checkpoints_load_at_any_time(calls: int) -> None:
    first, second, x = parallel(**EXACT), parallel(**EXACT), example()
    for _ in range(calls):
        first(x), second(x)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file))
    assert torch.equal(second(x), first(x))


@pytest.mark.parametrize("calls", [0, 1])
def test_copies_are_independent(calls: int) -> None:
    net, x = parallel(**EXACT), example()
    for _ in range(calls):
        net(x)
    twin = copy.deepcopy(net)
    wanted = net(x).detach()
    train(net, torch.optim.SGD(net.parameters(), 1e-2), x)
    assert torch.equal(twin(x), wanted)
    assert not torch.equal(net(x), wanted)


@pytest.mark.parametrize("calls", [0, 1])
def test_it_changes_mode_and_type(calls: int) -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))

    net = LayerParallel(None, block, STEPS, 3.0, **EXACT)
    for _ in range(calls):
        net(example().float())
    net.double().eval()
    x = example()
    serial = net.to_serial()
    assert_alike(gradients(net, x), gradients(serial, x))
    for part in (net.train(), serial.train()):
        torch.manual_seed(3)
        part(x)
    assert_alike(list(net.buffers()), list(serial.buffers()))
    assert net.steps.training


def test_it_is_built_in_any_mode_and_trained_in_another() -> None:
    net, x = parallel(**EXACT), example()
    with torch.inference_mode():
        net(x)
    assert_alike(gradients(net, x), gradients(net.to_serial(), x))
    with torch.inference_mode():
        net = parallel(**EXACT)  # no parameters that could be trained; their copies can
        net(example())
    assert_alike(gradients(net, x), gradients(net.to_serial(), x))


def test_coarse_means_follow_the_type_of_the_weights() -> None:
    net = LayerParallel(None, Block, STEPS, 3.0, coarse="mean", slices=3, cfactor=2)
    net(example().float())
    assert net.network.plan.pieces[1].coarse == "mean"
    assert net.double()(example()).dtype == torch.float64


def test_it_is_built_at_once_with_example_inputs() -> None:
    net = LayerParallel(None, Block, STEPS, 3.0, example_inputs=(example().float(),))
    assert net.network.plan.n == net.slices
    with pytest.raises(MethodError, match="call it once"):
        _ = parallel().network


def test_layers_may_share_a_block() -> None:
    block, x = Block().double(), example()
    net = LayerParallel(None, lambda: block, STEPS, 3.0, **EXACT)
    assert_alike(gradients(net, x), gradients(net.to_serial(), x))
    assert net.steps.get_parameter("7.block.linear.weight") is block.linear.weight


# inside of larger networks


def surrounded(comm: Any, steps: int, **options: Any) -> nn.Sequential:
    torch.manual_seed(7)
    opening, closing = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
    middle = LayerParallel(comm, Block, steps, 3.0, **options)
    return nn.Sequential(opening, nn.Tanh(), middle, closing).double()


def test_it_composes() -> None:
    net, x = surrounded(None, STEPS, **EXACT), example(3)
    assert isinstance(net[2], LayerParallel)
    serial = nn.Sequential(net[0], net[1], net[2].to_serial(), net[3])
    assert_alike(gradients(net, x), gradients(serial, x))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def on_threads(ranks: int, work: Callable[[Any], Any]) -> list[Any]:
    group, found = LocalGroup(ranks, patience=30), {}

    def run(rank: int) -> None:
        found[rank] = work(group.member(rank))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(ranks)]


@pytest.mark.parametrize("eager", [False, True])
def test_ranks_hold_their_own_layers_with_weights_of_rank_0(eager: bool) -> None:
    x, options = example(), {"cfactor": 2}
    models = [copy.deepcopy(parallel(slices=3, **options).to_serial()) for _ in range(3)]
    alone = parallel(slices=3, **options)
    states = [{f"steps.{k}": v for k, v in model.state_dict().items()} for model in models]
    alone.load_state_dict(states[0])

    def work(comm: Any) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
        blocks = (step.block for step in models[comm.rank])
        given = {"example_inputs": (x,)} if eager else {}
        net = LayerParallel(comm, lambda: next(blocks), STEPS // 3, 3.0, **options, **given)
        optimizer = torch.optim.SGD(net.parameters(), 1e-2)
        train(net, optimizer, x)
        net.load_state_dict(copy.deepcopy(net.state_dict()))
        own = {name: p.detach().clone() for name, p in net.named_parameters()}
        net.load_state_dict(states[2])  # the whole chain's: others' layers are left out
        return list(own), own, dict(net.state_dict())

    found = on_threads(3, work)
    train(alone, torch.optim.SGD(alone.parameters(), 1e-2), x)
    for rank, (names, own, loaded) in enumerate(found):
        layers = {int(name.split(".")[1]) for name in names}
        assert layers == set(range(4 * rank, 4 * rank + 4))
        assert_alike([own[k] for k in names], [alone.get_parameter(k) for k in names])
        assert all(torch.equal(value, states[2][name]) for name, value in loaded.items())


# options


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"levels": 2, "coarsening": 6}),
        ({"max_levels": 3, "cfactor": 2}, {"levels": 3, "coarsening": 2}),
        ({"max_fwd_levels": 3, "max_bwd_levels": 3, "cfactor": (2, 3)}, {"levels": 3}),
        ({"max_iters": 3}, {"forward_cycles": 3, "backward_cycles": 3}),
        ({"max_bwd_iters": 1, "max_iters": 3}, {"forward_cycles": 3, "backward_cycles": 1}),
        ({"max_fwd_iters": 2}, {"forward_cycles": 2, "backward_cycles": 1}),
        ({"num_relax": 0}, {"relaxation": "F"}),
        ({"num_relax": 2}, {"relaxation": "FCFCF"}),
        ({"skip_downcycle": True}, {"guess": "coarsest"}),
        ({"skip_downcycle": False}, {"guess": "coarse"}),
        ({"fmg": True, "skip_downcycle": True}, {"cycle": "F", "guess": "full"}),
        ({"fmg": False}, {"cycle": "V", "guess": "coarse"}),
        ({"storage": -1}, {"storage": "intervals"}),
        ({"storage": 0}, {"storage": "all"}),
        ({"storage": "points"}, {"storage": "points"}),
        ({"tol": 0.5}, {"tolerance": 0.5}),
        ({"coarse": "mean", "guess": "previous"}, {"coarse": "mean", "guess": "previous"}),
    ],
)
def test_options_are_those_of_torchbraid(options: dict[str, Any], wanted: dict[str, Any]) -> None:
    net = parallel(**options)
    assert {name: getattr(net.method, name) for name in wanted} == wanted
    assert isinstance(net(example()), Tensor)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"print_level": 1}, "no option 'print_level'.*max_fwd_iters.*forward_cycles.*slices"),
        ({"max_levels": 1}, "max_levels=1 is the serial chain"),
        ({"max_fwd_levels": 2, "max_bwd_levels": 3}, "the same levels"),
        ({"cfactor": 2, "coarsening": 2}, "'coarsening' is said twice"),
        ({"cfactor": 1}, "coarsening=1"),
        ({"cfactor": "2"}, "coarsening='2'"),
        ({"num_relax": -1}, "num_relax=-1"),
        ({"num_relax": True}, "num_relax=True"),
        ({"storage": 7}, "storage=7"),
        ({"storage": "none"}, "storage='none'"),
        ({"tol": 0}, "tolerance=0"),
        ({"slices": 0}, "slices=0.*from 1"),
        ({"slices": STEPS + 1}, "slices=13.*to 12"),
        ({"slices": True}, "slices=True"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parallel(**options)


@pytest.mark.parametrize(("count", "horizon"), [(0, 1.0), (True, 1.0), (1.5, 1.0), (4, 0.0)])
def test_there_is_a_layer_and_time(count: Any, horizon: float) -> None:
    with pytest.raises(MethodError, match="at least one layer"):
        LayerParallel(None, Block, count, horizon)


@pytest.mark.parametrize(("count", "slices"), [(1, 1), (2, 2), (12, 2), (32, 4), (1000, 16)])
def test_the_number_of_slices_is_bounded(count: int, slices: int) -> None:
    assert LayerParallel(None, nn.Identity, count, 1.0).slices == slices


def test_a_slow_one_says_so() -> None:
    with pytest.warns(SlowerThanSerialWarning):
        parallel(slices=STEPS)(example())
