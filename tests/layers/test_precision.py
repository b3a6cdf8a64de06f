"""Recurrences compute in the precision of their weights under autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pararealize.layers import GRUStep, ImplicitGRUStep, TimeParallel, TimeParareal

RECURRENCES = pytest.mark.parametrize(
    "make",
    [
        lambda: TimeParallel(ImplicitGRUStep(3, 5), 4),
        lambda: TimeParallel(GRUStep(3, 5)),
        lambda: TimeParareal(ImplicitGRUStep(3, 5), 4, block=2),
    ],
)


def run(net: nn.Module, x: Tensor, *, autocast: bool) -> tuple[Tensor, list[Tensor]]:
    """States and gradients."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states = net(x)
        loss = states.square().sum()
    return states, list(torch.autograd.grad(loss, list(net.parameters())))


@RECURRENCES
def test_autocast_changes_nothing(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net, x = make(), torch.randn(2, 12, 3)
    (wanted, gradients), (found, others) = (run(net, x, autocast=a) for a in (False, True))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert all(map(torch.equal, others, gradients))


@RECURRENCES
def test_inputs_that_autocast_has_rounded_are_taken(make: Callable[[], nn.Module]) -> None:
    """As behind a linear layer, whose answers are in half precision there."""
    torch.manual_seed(0)
    net, x = make(), torch.randn(2, 12, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x.bfloat16())
    assert torch.equal(found, net(x.bfloat16().float()))
    with pytest.raises(RuntimeError, match="dtype"):
        net(x.double())
