"""Depth level: the network of one depth in multilevel training, with its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pararealize.errors import MethodError, NonFiniteError
from pararealize.layers.carried import check_carried
from pararealize.layers.transfer import Transfer, Values


@final
@dataclass(frozen=True)
class DepthLevel:
    """A network, its parameters that are trained, and the way ``down`` to the next shallower one.

    ``counts`` tells of every parameter how many of the deepest network it stands for, ``cost``
    the share of an evaluation of the deepest network that one of this takes.
    """

    net: nn.Module
    optimizer: Optimizer
    parameters: Mapping[str, nn.Parameter]
    counts: Mapping[str, int]
    down: Transfer | None
    cost: float

    @classmethod
    def of(
        cls,
        net: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        counts: Mapping[str, int] | None,
        down: Transfer | None,
        cost: float,
    ) -> DepthLevel:
        """The level of a network, whose optimizer is made; without counts it is the deepest."""
        made = optimizer(net)
        check_carried(made)
        own = {name: p for name, p in net.named_parameters() if p.requires_grad}
        trained = {id(p) for group in made.param_groups for p in group["params"]}
        if not own or not trained <= {id(p) for p in net.parameters()}:
            raise MethodError(
                "the optimizer is made of the network that it is given, as in "
                "optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.1); "
                f"this one of {type(net).__name__} has "
                + ("parameters of another network" if own else "nothing to train")
            )
        return cls(net, made, own, counts or dict.fromkeys(own, 1), down, cost)

    def values(self) -> dict[str, Tensor]:
        """Copies of the parameters."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def differentiate(
        self, loss: Callable[[nn.Module, object], Tensor], batch: object
    ) -> tuple[float, dict[str, Tensor]]:
        """The loss of a batch and its gradient in the inner product of the counts.

        That is autograd's, divided by the counts: of a mean over the blocks, not of a sum.
        Parameters that the loss does not depend on are left out.
        """
        self.optimizer.zero_grad(set_to_none=True)
        found = loss(self.net, batch)
        value = self._finite(found)
        torch.autograd.backward(found)
        return value, {
            name: parameter.grad / self.counts[name]
            for name, parameter in self.parameters.items()
            if parameter.grad is not None
        }

    def inner(self, first: Values, second: Values) -> float:
        """Σ counts_i ⟨first_i, second_i⟩, over what both have."""
        both = [name for name in first if name in second]
        return sum(self.counts[n] * float((first[n] * second[n]).detach().sum()) for n in both)

    def place(self, start: Values, change: Values, length: float) -> None:
        """Parameters become ``start + length · change``; what has no change stays."""
        for name, value in change.items():
            self.parameters[name].copy_(start[name] + length * value)

    def step(self, gradient: Values) -> None:
        """The optimizer's step for a gradient."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradient.get(name)
        self.optimizer.step()

    def _finite(self, loss: Tensor) -> float:
        value = float(loss.detach())
        if not abs(value) < float("inf"):
            raise NonFiniteError(
                f"training diverged: the loss of {type(self.net).__name__} with "
                f"{self.cost:.3g} times the full depth is {value}; take a smaller learning rate, "
                "fewer steps on shallow networks, coarse_steps=4, or line_search=True"
            )
        return value
