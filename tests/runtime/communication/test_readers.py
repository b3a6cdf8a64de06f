"""Readers of parameters: those that need all ranks' are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize.errors import RankError
from pararealize.runtime.communication.readers import refuse_global_optimizers, watched


class Held(nn.Module):
    """A module whose parameters are some of a network's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def parameters(self, recurse: bool = True) -> Any:
        return watched(super().parameters(recurse))


READERS: list[Callable[[nn.Module], Any]] = [
    lambda net: nn.utils.clip_grad_norm_(net.parameters(), 1.0),
    lambda net: nn.utils.clip_grad_norm_(list_of(net.parameters()), 1.0),
    lambda net: torch.optim.LBFGS(net.parameters()),
    lambda net: torch.optim.LBFGS([{"params": net.parameters()}]),
]


def list_of(parameters: Any) -> Any:
    """Lazily, as ``filter`` does."""
    return filter(lambda p: p.requires_grad, parameters)


@pytest.mark.parametrize("reader", READERS)
def test_who_needs_all_parameters_is_refused(reader: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(RankError, match=r"net.clip_grad_norm_\(max_norm\)|LBFGS adds up"):
        reader(Held())


def test_others_are_given_them() -> None:
    net = Held()
    for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad):
        kind(net.parameters(), lr=0.1)
    assert list(net.parameters()) == [net.fc.weight, net.fc.bias]
    net.zero_grad()


def test_a_step_that_adds_up_over_parameters_is_refused() -> None:
    net = nn.Linear(2, 2)

    def closure() -> Tensor:
        refuse_global_optimizers()
        loss = net(torch.ones(2)).sum()
        loss.backward()
        return loss

    torch.optim.SGD(net.parameters(), lr=0.1).step(closure)
    with pytest.raises(RankError, match="LBFGS adds up over all parameters"):
        torch.optim.LBFGS(net.parameters()).step(closure)
