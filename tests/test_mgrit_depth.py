"""MGRIT on one device: slices as one batch, what they see, states that are kept."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, pararealize
from pararealize.cli.digits import load_digits
from pararealize.errors import DivergenceWarning, MethodError, SlowerThanSerialWarning
from pararealize.ir.task import Task
from pararealize.models import implicit_gru, odenet, resnet
from pararealize.propagators.stacked import Stacked
from pararealize.runtime.multigrid.adjoints import Adjoints

#: Rounding of sums in another order.
TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def _small_networks() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        yield


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output and all gradients of a training step."""
    net.zero_grad()
    output = net(x)
    output.pow(2).mean().backward()
    gradients = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **gradients}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=TOLERANCE, atol=TOLERANCE)


def dense() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return odenet(24, width=6, in_features=5).double(), torch.randn(7, 5).double()


def recurrent(features: nn.Module | None = None) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = implicit_gru(32, width=6, dt=0.2, features=features).double()
    return net, torch.randn(5, 32, 6).double()


CASES = {
    "dense": (dense, 6, MGRIT(coarsening=4, coarse="mean", batched="always")),
    "two cycles": (
        dense,
        6,
        MGRIT(
            coarsening=2, coarse="sampled", forward_cycles=2, backward_cycles=2, batched="always"
        ),
    ),
    "relaxed": (dense, 6, MGRIT(coarsening=4, coarse="summed", relaxation="FCF", batched="always")),
    "three levels": (
        dense,
        12,
        MGRIT(levels=3, coarsening=2, coarse="rediscretized", batched="always"),
    ),
    "recurrent": (recurrent, 8, MGRIT(coarsening=4, coarse="rediscretized", batched="always")),
}


@pytest.mark.parametrize("name", CASES)
def test_slices_side_by_side_do_what_they_do_one_after_another(name: str) -> None:
    make, n, method = CASES[name]
    model, x = make()
    batched = pararealize(model, n, method=method, example_inputs=(x,))
    alone = pararealize(
        model, n, method=MGRIT(**{**vars(method), "batched": "never"}), example_inputs=(x,)
    )
    assert batched.plan.stacks
    assert not alone.plan.stacks
    with patch.object(Stacked, "__call__", autospec=True, side_effect=Stacked.__call__) as called:
        found = step(batched, x)
    assert called.called
    assert_same(found, step(alone, x))
    with torch.no_grad():
        torch.testing.assert_close(batched(x[:3]), alone(x[:3]), rtol=TOLERANCE, atol=TOLERANCE)


def test_slice_one_joins_the_batch_from_where_it_is_like_the_others() -> None:
    model, x = dense()
    net = pararealize(model, 6, method=CASES["dense"][2], example_inputs=(x,))
    (stack,) = net.plan.stacks
    assert stack.slices == (1, 2, 3, 4, 5, 6)
    assert stack.entry.startswith("opening")
    calls: list[float] = []
    weights = [net.opening[1].weight, net.steps[0].linear.weight, net.steps[9].linear.weight]
    for weight in weights:
        weight.register_hook(lambda gradient: calls.append(float(gradient.sum())))
    found = step(net, x)
    sums = [float(found[f"{name}.weight"].sum()) for name in ("opening.1", "steps.0.linear")]
    assert len(calls) == 3
    assert set(sums) <= set(calls)
    (only,) = torch.autograd.grad(net(x).pow(2).mean(), [net.opening[1].weight])
    torch.testing.assert_close(only, found["opening.1.weight"])


@pytest.mark.parametrize("name", ["dense", "two cycles"])
def test_adjoint_sweeps_go_through_one_graph(name: str) -> None:
    """Coarse steps of a sweep are transposed in one pass, to the same numbers as one by one."""
    make, n, method = CASES[name]
    model, x = make()
    net = pararealize(model, n, method=method, example_inputs=(x,))
    chains: list[int] = []
    whole = Adjoints._chain

    def noted(self: Adjoints, tasks: Sequence[Task], first: int) -> list[Task]:
        run = whole(self, tasks, first)
        chains.append(len(run))
        return run

    with patch.object(Adjoints, "_chain", noted):
        found = step(net, x)
    coarse = {task.propagator for task in net.adjoint or () if "coarse." in task.propagator}
    assert max(chains) >= len(coarse) - 1
    with patch.object(Adjoints, "_chain", lambda *_: []):
        assert_same(found, step(net, x))


def test_a_batch_over_depth_takes_todays_weights() -> None:
    model, x = dense()
    net = pararealize(model, 6, method=CASES["dense"][2], example_inputs=(x,))
    step(net, x)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.1)
    other = odenet(24, width=6, in_features=5).double()
    other.load_state_dict(net.to_serial().state_dict())
    net.steps[9] = copy.deepcopy(net.steps[3])  # a module is replaced
    other.steps[9] = copy.deepcopy(other.steps[3])
    never = MGRIT(coarsening=4, coarse="mean", batched="never")
    assert_same(step(net, x), step(pararealize(other, 6, method=never, example_inputs=(x,)), x))


def test_hooks_and_other_kinds_of_modules_end_the_batch() -> None:
    model, x = dense()
    method = MGRIT(coarsening=4, coarse="rediscretized", batched="always")
    net = pararealize(model, 6, method=method, example_inputs=(x,))
    wanted, calls = step(net, x), []
    handle = net.steps[9].linear.register_forward_hook(lambda *_: calls.append(None))
    assert_same(step(net, x), wanted)
    assert calls
    handle.remove()

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    other = Scaled(6, 6).double()
    with torch.no_grad():
        other.weight.copy_(net.steps[9].linear.weight / 2)
        other.bias.copy_(net.steps[9].linear.bias / 2)
    net.steps[9].linear = other
    torch.testing.assert_close(step(net, x)["output"], wanted["output"])


def test_graphs_can_be_kept_and_some_gradients_taken() -> None:
    model, x = dense()
    net = pararealize(model, 6, method=CASES["dense"][2], example_inputs=(x,))
    wanted = step(net, x)
    loss = net(x).pow(2).mean()
    for _ in range(2):
        (found,) = torch.autograd.grad(loss, [net.steps[7].linear.weight], retain_graph=True)
        torch.testing.assert_close(found, wanted["steps.7.linear.weight"])


@pytest.mark.parametrize("kind", ["dropout", "norm"])
def test_slices_that_cannot_be_stacked_are_refused(kind: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 4)
            self.extra: nn.Module = nn.Dropout(0.1) if kind == "dropout" else nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.1 * torch.tanh(self.extra(self.map(x)))

    model, x = nn.Sequential(*(Block() for _ in range(16))), torch.randn(5, 4)
    with pytest.raises(MethodError, match="no two slices can be advanced as one batch"):
        pararealize(
            model,
            4,
            method=MGRIT(coarsening=2, coarse="mean", batched="always"),
            example_inputs=(x,),
        )
    net = pararealize(model, 4, method=MGRIT(coarsening=2, coarse="mean"), example_inputs=(x,))
    assert not net.plan.stacks


@pytest.mark.parametrize(("speedup", "runs"), [(0.7, "serial"), (1.6, "multigrid")])
def test_the_fastest_of_multigrid_and_serial(speedup: float, runs: str) -> None:
    model, x = dense()
    method = MGRIT(coarsening=4, coarse="rediscretized", batched="fastest")
    with patch("pararealize.emit.runner.measured_speedup", return_value=speedup):
        net = pararealize(model, 6, method=method, example_inputs=(x,))
    assert f"{speedup:.2f}× the speed of serial" in " ".join(net.explain().split())
    found, wanted = step(net, x), step(model, x)
    same = all(torch.allclose(found[name], wanted[name], rtol=1e-10) for name in wanted)
    assert same == (runs == "serial")


def test_the_fastest_is_measured() -> None:
    model, x = dense()
    net = pararealize(model, 6, method=MGRIT(coarsening=4, batched="fastest"), example_inputs=(x,))
    assert net.plan.measured_speedup > 0
    assert step(net, x)["output"].isfinite().all()


def seen(net: ParallelNetwork) -> list[str]:
    return [task.propagator for task in net.schedule if task.propagator.startswith("inputs.")]


def test_what_slices_see_is_computed_once() -> None:
    class Features(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(super().forward(x))

    model, x = recurrent(Features(6, 6))
    method = MGRIT(coarsening=4, coarse="rediscretized", forward_cycles=3, backward_cycles=2)
    net = pararealize(model, 4, method=method, example_inputs=(x,), leaf_modules=[Features])
    assert seen(net) == []  # a module that the user wrote may draw random numbers
    plain = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    model, x = recurrent(plain)
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    assert seen(net) == ["inputs.2", "inputs.3", "inputs.4"]
    shapes = {len(p.segments[0].features) for n, p in net.propagators.items() if n == "fine.3"}
    assert shapes == {8}


@pytest.mark.parametrize("storage", ["all", "points", "intervals"])
@pytest.mark.parametrize("norm", [False, True])
def test_features_take_their_gradients_at_convergence(storage: str, norm: bool) -> None:
    parts = [nn.Linear(6, 6), *([nn.BatchNorm1d(6)] if norm else []), nn.Tanh()]
    model, x = recurrent(nn.Sequential(*parts))
    method = MGRIT(
        coarsening=4,
        coarse="rediscretized",
        forward_cycles=4,
        backward_cycles=4,
        storage=storage,
    )
    net = pararealize(model, 4, method=method, example_inputs=(x,))
    assert bool(seen(net)) != norm  # all frames share the statistics, in the order of time
    assert_same(step(net, x), step(model, x))
    buffers = dict(model.named_buffers())
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_intervals_are_run_again_and_statistics_move_once() -> None:
    torch.manual_seed(0)
    model, x = resnet(47, width=4).double(), torch.randn(4, 3, 16, 16).double()
    options = {"coarsening": 2, "coarse": "rediscretized", "guard": 1e9}
    nets = [
        pararealize(
            model,
            2,
            method=MGRIT(**options, storage=storage),
            example_inputs=(x,),  # type: ignore[arg-type]
        )
        for storage in ("all", "intervals")
    ]
    calls: list[list[bool]] = [[], []]
    for net, found in zip(nets, calls, strict=True):
        net.layer1[3].conv1.register_forward_hook(
            lambda *_, found=found: found.append(torch.is_grad_enabled())
        )
    kept, again = (step(net, x) for net in nets)
    assert sum(calls[1]) == sum(calls[0]) + 1  # once more for its adjoint
    assert_same(again, kept)
    first = dict(nets[0].named_buffers())
    for name, buffer in nets[1].named_buffers():
        torch.testing.assert_close(buffer, first[name], rtol=0, atol=0)


def test_a_trained_network_without_small_steps_is_run_serially() -> None:
    """Digits, a ResNet whose steps are not scaled, batch statistics: the guard engages."""
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = digits.train_images[:64, :, ::2, ::2], digits.train_labels[:64]
    model = resnet(74, channels=1, width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    net = pararealize(
        model.double(),
        4,
        method=MGRIT(coarsening=3, coarse="rediscretized"),
        example_inputs=(images.double(),),
    )
    with pytest.warns(DivergenceWarning, match="this step is run serially"):
        found = step(net, images.double())
    assert_same(found, step(model, images.double()))
    assert net.report.serial_steps >= 1
    assert "run serially in the end" in str(net.report)
