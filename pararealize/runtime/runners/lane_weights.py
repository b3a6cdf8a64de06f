"""Lane weights: on every lane leaves of its own for the weights that are read there.

Autograd adds up the gradients of a leaf on the stream on which the leaf was first used. A weight
that two lanes read, or that an earlier graph still holds on another stream, would have gradients
travel between streams, and out of a capture. A lane's own leaf, of the same memory and of this step
alone, is made and read on the lane, and so is its gradient; the weight's is the sum over lanes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.propagators.fine import Checkpointed, Fine
from pararealize.propagators.propagator import ZeroPreserving
from pararealize.propagators.registered import Registered

#: The lane of the caller.
NOW = 0
#: Where a weight is looked up: a module's parameters, or the list that a recurrent layer keeps.
Place = tuple[Any, str | int]


@final
class LaneWeights:
    """Leaves of one step for the weights of some modules that want gradients."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._places: dict[int, list[Place]] = {}
        self._weights: dict[int, nn.Parameter] = {}
        for module in dict.fromkeys(part for each in modules for part in each.modules()):
            for name, weight in module._parameters.items():
                if weight is not None and weight.requires_grad:
                    self._add(weight, (module._parameters, name))
            flat = vars(module).get("_flat_weights", [])
            for number, weight in enumerate(flat):
                if isinstance(weight, nn.Parameter) and weight.requires_grad:
                    self._add(weight, (flat, number))
        self._leaves: dict[tuple[int, int], Tensor] = {}
        self._used: dict[int, tuple[int, ...]] = {}

    def _add(self, weight: nn.Parameter, place: Place) -> None:
        self._weights[id(weight)] = weight
        self._places.setdefault(id(weight), []).append(place)

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weights themselves."""
        return list(self._weights.values())

    @contextmanager
    def on(self, lane: int, module: nn.Module | None = None) -> Iterator[None]:
        """A block in which a propagator, or every module, reads the lane's leaves."""
        keys = tuple(self._weights) if module is None else self._read_by(module)
        before = [(place, place[0][place[1]]) for key in keys for place in self._places[key]]
        for key in keys:
            for held, name in self._places[key]:
                held[name] = self._leaf(lane, key)
        try:
            yield
        finally:
            for (held, name), value in before:
                held[name] = value

    def _leaf(self, lane: int, key: int) -> Tensor:
        if (lane, key) not in self._leaves:
            self._leaves[lane, key] = self._weights[key].detach().requires_grad_()
        return self._leaves[lane, key]

    def _read_by(self, module: nn.Module) -> tuple[int, ...]:
        """The weights that a propagator may read: all of them where it cannot say which."""
        if id(module) not in self._used:
            own = _own(module)
            found = self._weights.keys() if own is None else self._held_by(own)
            self._used[id(module)] = tuple(found)
        return self._used[id(module)]

    def _held_by(self, tensors: Iterable[Tensor]) -> list[int]:
        """Those of the weights that are looked up as one of these: a leaf stands for its weight."""
        stands = {id(leaf): key for (_, key), leaf in self._leaves.items()}
        keys = dict.fromkeys(stands.get(id(t), id(t)) for t in tensors)
        return [key for key in keys if key in self._weights]

    def gradients(self, value: Tensor) -> list[Tensor | None]:
        """D value / d weight for every weight, in their order; ``None`` where none is known."""
        leaves: dict[int, list[Tensor]] = {key: [w] for key, w in self._weights.items()}
        for (_, key), leaf in self._leaves.items():
            leaves[key].append(leaf)
        every = [leaf for row in leaves.values() for leaf in row]
        found = iter(torch.autograd.grad(value, every, allow_unused=True))
        return [_total([next(found) for _ in row]) for row in leaves.values()]


def _total(gradients: Iterable[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for gradient in (each for each in gradients if each is not None):
        total = gradient if total is None else total + gradient
    return total


def _own(module: nn.Module) -> list[Tensor] | None:
    """What a propagator reads of weights; ``None`` where that is not known."""
    if isinstance(module, (ZeroPreserving, Checkpointed)):
        return _own(module.inner)
    if not isinstance(module, (Fine, Registered)):
        return None
    called = (w for part in module.called() for w in part._parameters.values() if w is not None)
    return [*module.weights(), *called]
