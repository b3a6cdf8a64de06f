"""Stale optimizers: made of a model before it was compiled, they would train nothing."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Collection, Iterable
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from pararealize.errors import StaleOptimizerWarning

#: Training calls in which weights that an optimizer trains would have moved.
CALLS = 3


@final
class StaleOptimizers:
    """Looks once for an optimizer of the model that was given, where the weights do not move.

    A compiled network trains a copy of the weights. ``given`` are the model's own.
    """

    def __init__(self, given: Iterable[nn.Parameter] = ()) -> None:
        self._given = [weakref.ref(parameter) for parameter in given]
        self._calls = 0 if self._given else CALLS
        self._before = -1

    def look(self, network: nn.Module) -> None:
        """The network is called; in one of its first training calls it may be time to look."""
        if self._calls >= CALLS or not network.training or not torch.is_grad_enabled():
            return
        weight = next((p for p in nn.Module.parameters(network) if p.requires_grad), None)
        version = -1 if weight is None else weight._version
        if weight is None or (self._calls and version != self._before):
            self._calls = CALLS
            return
        self._before, self._calls = version, self._calls + 1
        if self._calls == CALLS:
            self._warn(network)

    def _warn(self, network: nn.Module) -> None:
        given = {id(weight) for ref in self._given if (weight := ref()) is not None}
        own = {id(weight) for weight in nn.Module.parameters(network)}
        every = [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]
        stale = [optimizer for optimizer in every if _has(optimizer, given - own)]
        if not stale or any(_has(optimizer, own) for optimizer in every):
            return
        kind = type(stale[0]).__name__
        warnings.warn(
            f"the weights have not moved in {CALLS} training calls, and there is an optimizer "
            f"({kind}) of the model from before it was compiled, whose parameters get no "
            "gradients, as the compiled network has weights of its own: make the optimizer "
            f"afterwards, optimizer = {kind}(net.parameters(), ...).",
            StaleOptimizerWarning,
            stacklevel=5,
        )

    def __deepcopy__(self, _memo: dict[int, Any]) -> StaleOptimizers:
        return StaleOptimizers()  # what is copied is meant to have other weights

    def __reduce__(self) -> Any:
        return StaleOptimizers, ()


def _has(optimizer: Optimizer, weights: Collection[int]) -> bool:
    return any(id(p) in weights for group in optimizer.param_groups for p in group["params"])
