"""Tape: applications of propagators at which adjoints are linearised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pararealize.runtime.nest import flatten, leaves_of, map_tensors, unflatten

#: A propagator and the value that it was applied to.
Place = tuple[str, str]


@dataclass(frozen=True)
class Recorded:
    """One application with autograd's graph: the state it took, and what it made."""

    state: Any
    result: Any


def is_real(leaf: Any) -> bool:
    """Whether a leaf of a state can have an adjoint."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def detached(value: Any) -> Any:
    """The state without autograd's graph."""
    return map_tensors(lambda leaf: leaf.detach(), value)


@final
class Tape:
    """Recorded applications of one call, by propagator and value."""

    def __init__(self) -> None:
        self.records: dict[Place, Recorded] = {}

    def record(
        self, place: Place, evaluate: Callable[..., Any], state: Any, inputs: Sequence[Any]
    ) -> Any:
        """Evaluate with autograd's graph, from the state on; the result is detached from it."""
        with torch.enable_grad():
            if state is None:
                leaf, result = (), evaluate(*inputs)
            else:
                leaf = map_tensors(_leaf, state)
                result = evaluate(leaf, *inputs)
        self.records[place] = Recorded(leaf, result)
        return detached(result)

    def keep(self, linearised: Mapping[str, str]) -> None:
        """Forget applications that no adjoint will be linearised at."""
        wanted = set(linearised.items())
        self.records = {place: r for place, r in self.records.items() if place in wanted}

    def transpose(
        self, place: Place, adjoint: Any, others: Sequence[Tensor], *, retain: bool
    ) -> tuple[Any, list[Tensor | None]]:
        """Φ'ᵀ λ: the adjoint of the state, and the gradients of the other tensors."""
        recorded = self.records[place]
        made, given = leaves_of(recorded.result), leaves_of(adjoint)
        pairs = [
            (leaf, value)
            for leaf, value in zip(made, given, strict=True)
            if isinstance(leaf, Tensor) and leaf.requires_grad
        ]
        leaves, structure = flatten(recorded.state)
        wanted = [leaf for leaf in leaves if is_real(leaf)]
        if not pairs or not (wanted or others):
            found: tuple[Tensor | None, ...] = (None,) * (len(wanted) + len(others))
        else:
            found = torch.autograd.grad(
                [leaf for leaf, _ in pairs],
                [*wanted, *others],
                [value for _, value in pairs],
                retain_graph=retain,
                allow_unused=True,
            )
        back = iter(found)
        results = [_or_zero(next(back), leaf) if is_real(leaf) else leaf for leaf in leaves]
        return unflatten(results, structure), list(back)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(is_real(tensor))


def _or_zero(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if gradient is None else gradient
