"""Stale optimizers: made of a model before it was compiled, they would train nothing."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterable, Iterator
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
        own = list(nn.Module.parameters(network))
        known = {id(weight) for weight in own}
        given = [w for ref in self._given if (w := ref()) is not None and id(w) not in known]
        stale = next(optimizers_of(given), None)
        if stale is None or next(optimizers_of(own), None) is not None:
            return
        kind = type(stale).__name__
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


def optimizers_of(weights: list[nn.Parameter]) -> Iterator[Optimizer]:
    """The optimizers that train some of the weights, found from those.

    Going through all objects instead would hold on to tuples that other threads are making.
    """
    groups = (g for row in _rows(weights) for g in _holders(row) if _has(g, "params", row))
    for group in groups:
        for rows in _rows([group]):
            for holder in _holders(rows):
                owners = _holders(holder) if _has(holder, "param_groups", rows) else [holder]
                yield from (each for each in owners if issubclass(type(each), Optimizer))


def _holders(value: object) -> list[Any]:
    return gc.get_referrers(value)


def _rows(values: list[Any]) -> list[list[Any]]:
    """The lists that hold some of the values, besides this one."""
    found = gc.get_referrers(*values) if values else []
    return [each for each in found if type(each) is list and each is not values]


def _has(holder: object, key: str, value: object) -> bool:
    return type(holder) is dict and holder.get(key) is value
