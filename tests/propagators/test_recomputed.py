"""Activation checkpointing stays: less memory, the same values, statistics and masks."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from pararealize import MGRIT, Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
SWEPT = Parareal(coarse="identity", correction="difference", guess="coarse", iterations=3)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(8, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Inside(Block):
    """Its own forward runs a method under a checkpoint."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Stack(nn.Module):
    """Six blocks, under a checkpoint or not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.blocks = nn.ModuleList((Inside if how == "method" else Block)() for _ in range(6))
        self.apart = partial(checkpoint, use_reentrant=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "sequential":
            return checkpoint_sequential(list(self.blocks), 3, x, use_reentrant=False)
        for block in self.blocks:
            x = self._call(block, x)
        return x

    def _call(self, block: nn.Module, x: Tensor) -> Tensor:
        match self.how:
            case "module":
                return checkpoint(block, x, use_reentrant=False)
            case "reentrant":
                return checkpoint(block, x, use_reentrant=True)
            case "flag" if self.training:  # as transformers do
                return self.apart(block.__call__, x)
            case "closure":
                return checkpoint(lambda v: v + block.body(v), x, use_reentrant=False)
        return block(x)


HOW = ("module", "reentrant", "flag", "closure", "method", "sequential")


def stack(how: str) -> Stack:
    torch.manual_seed(0)
    return Stack(how).double()


def kept(model: nn.Module, x: Tensor) -> int:
    """Numbers that autograd keeps for the backward pass, weights not counted."""
    weights = {p.data_ptr() for p in model.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            seen[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(tensor.numel() for tensor in seen.values())


def steps(model: nn.Module, x: Tensor) -> list[Any]:
    torch.manual_seed(5)
    for _ in range(2):
        model.zero_grad()
        output = model(x)
        output.square().mean().backward()
    found: list[Any] = [output.detach(), [p.grad for p in model.parameters() if p.grad is not None]]
    found.append([b.clone() for b in model.buffers()])
    model.eval()
    return [*found, model(x).detach(), model.train()][:-1]


@pytest.mark.parametrize("how", HOW)
def test_three_sweeps_are_the_checkpointed_serial_network(how: str) -> None:
    model, x = stack(how), torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    net = pararealize(model, 3, method=SWEPT, example_inputs=(x,))
    assert not net.plan.tracing.found
    serial, plain = copy.deepcopy(model), stack("none")
    assert kept(net, x) == kept(serial, x)
    assert kept(serial, x) < 0.6 * kept(plain, x)
    torch.manual_seed(0)
    fresh = copy.deepcopy(model)
    net = pararealize(model, 3, method=SWEPT, example_inputs=(x,))
    # All sweeps done, every operation is applied to the serial network's own values.
    torch.testing.assert_close(steps(net, x), steps(fresh, x), rtol=1e-12, atol=1e-13)


def test_statistics_move_again_in_the_backward_pass_as_torchs_do() -> None:
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    counts = []
    for how in ("none", "module"):
        net = pararealize(stack(how), 3, method=SWEPT, example_inputs=(x,))
        net(x).sum().backward()
        counts.append(int(net.get_submodule("blocks.2.body.2").num_batches_tracked))
    assert counts == [1, 2]


@pytest.mark.parametrize("how", ["module", "reentrant"])
def test_a_multigrid_solve_goes_through_checkpoints(how: str) -> None:
    x, results = torch.randn(5, 8, dtype=torch.float64, requires_grad=True), []
    for each in ("none", how):
        model = stack(each).eval()
        net = pararealize(model, 3, method=MGRIT(coarsening=2), example_inputs=(x,))
        net(x).square().mean().backward()
        results.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def test_without_gradients_nothing_is_recomputed() -> None:
    calls: list[Callable[..., Any]] = []
    model = stack("module")
    net = pararealize(model, 2, method=SWEPT, example_inputs=(torch.randn(5, 8).double(),))
    net.get_submodule("blocks.1").body[1].register_forward_hook(lambda m, _a, _o: calls.append(m))
    with torch.no_grad():
        net(torch.randn(5, 8).double())
    once = len(calls)
    calls.clear()
    net(torch.randn(5, 8).double()).sum().backward()
    assert len(calls) > once
