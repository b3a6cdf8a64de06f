"""Tape: applications of propagators at which adjoints are linearised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pararealize.ir.stages import Key
from pararealize.ir.target import Target
from pararealize.ir.task import Task
from pararealize.runtime.values.combine import combine
from pararealize.runtime.values.infinities import is_real
from pararealize.runtime.values.pytree import detached, flatten, leaves_of, map_tensors, unflatten

#: A propagator and the value that it was applied to.
Application = tuple[Target, str]


@dataclass(frozen=True)
class RecordedApplication:
    """One application with autograd's graph: the state it took, and what it made.

    Where the graph goes on into that of another application, ``after`` is that one.
    """

    state: Any
    result: Any
    after: Application | None = None


@dataclass(frozen=True)
class Continuation:
    """A value with autograd's graph, whose derivative by the result of a place is 1."""

    tensor: Tensor
    place: Application


@contextmanager
def hooks_held(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let no hooks of weights run: they see the sum of all slices' gradients, once, later."""
    held = [tensor._backward_hooks for tensor in tensors if tensor._backward_hooks]
    kept = [(hooks, dict(hooks)) for hooks in held]
    try:
        for hooks, _ in kept:
            hooks.clear()
        yield
    finally:
        for hooks, own in kept:
            hooks.update(own)


@dataclass(frozen=True)
class Batch:
    """Applications that were made at once: stacked states, results and weights.

    ``weights`` are stacked tensors, each with itself as a function of the parameters.
    """

    applications: tuple[Application, ...]
    state: Tensor
    result: Tensor
    weights: tuple[tuple[Tensor, Tensor], ...]

    def transpose(
        self, adjoints: Mapping[Application, Tensor], *, weights: bool, retain: bool
    ) -> tuple[dict[Application, Tensor], dict[int, Tensor]]:
        """Adjoints of the states, and gradients of the stacked parameters by their identity."""
        zero = torch.zeros_like(self.result[0])
        given = torch.stack([adjoints.get(place, zero) for place in self.applications])
        chosen = [pair for pair in self.weights if weights and pair[0].requires_grad]
        wanted = [self.state, *(stacked for stacked, _ in chosen)]
        back, *found = torch.autograd.grad(
            self.result, wanted, given, retain_graph=retain, allow_unused=True
        )
        gradients: dict[int, Tensor] = {}
        for (_, own), gradient in zip(chosen, found, strict=True):
            if gradient is not None:  # contiguous, so that parameters can keep their parts of it
                known = gradients.get(id(own))
                whole = gradient.contiguous()
                gradients[id(own)] = whole if known is None else known + whole
        return {p: back[i] for i, p in enumerate(self.applications) if p in adjoints}, gradients


@final
class Tape:
    """Recorded applications of one call, by propagator and value."""

    def __init__(self) -> None:
        self.records: dict[Application, RecordedApplication] = {}
        self.batches: dict[Application, Batch] = {}
        self.features: dict[str, tuple[Tensor, ...]] = {}
        self.links: dict[Key, Continuation] = {}

    def record(
        self,
        place: Application,
        evaluate: Callable[..., Any],
        state: Any,
        inputs: Sequence[Any],
        link: Continuation | None = None,
    ) -> Any:
        """Evaluate with autograd's graph, from the state on; the result is detached from it.

        With a ``link`` the state is its tensor, with the graph of what made it.
        """
        with torch.enable_grad():
            leaf: Any = ()
            if state is None:
                result = evaluate(*inputs)
            else:
                leaf = map_tensors(_leaf, state) if link is None else link.tensor
                result = evaluate(leaf, *inputs)
        self.records[place] = RecordedApplication(
            leaf, result, None if link is None else link.place
        )
        return detached(result)

    def link(self, key: Key, place: Application) -> None:
        """Let what reads a value, by rank and name, go on into the graph of what was recorded."""
        result = self.records[place].result
        if isinstance(result, Tensor) and result.requires_grad:
            self.links[key] = Continuation(result, place)

    def combine(self, task: Task, values: Mapping[Key, Any]) -> Any:
        """A sum whose first term has a graph goes on into it; the result is detached from it."""
        link = self.links[task.rank, task.reads[0]]
        others = (values[task.rank, name] for name in task.reads[1:])
        with torch.enable_grad():
            made = combine(task.signs, link.tensor, *others, guarded=True)
        self.links[task.rank, task.value] = Continuation(made, link.place)
        return made.detach()

    def transpose_chain(
        self, applications: Sequence[Application], adjoint: Tensor
    ) -> Sequence[Tensor]:
        """The adjoints of the states of applications that go on into each other, last one first."""
        states = [self.records[place].state for place in applications]
        return torch.autograd.grad(
            self.records[applications[0]].result, states, adjoint, retain_graph=True
        )

    def keep(self, linearised: Mapping[Target, str]) -> None:
        """Forget applications that no adjoint will be linearised at."""
        wanted = set(linearised.items())
        self.records = {place: r for place, r in self.records.items() if place in wanted}
        self.batches = {place: b for place, b in self.batches.items() if place in wanted}

    def record_batch(
        self,
        applications: Sequence[Application],
        evaluate: Callable[..., Tensor],
        states: Sequence[Tensor],
        weights: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Evaluate several at once with autograd's graph; the results are detached from it."""
        with torch.enable_grad():
            leaf = torch.stack(list(states)).requires_grad_()
            for stacked, own in weights:
                stacked.requires_grad_(own.requires_grad)
            result = evaluate([stacked for stacked, _ in weights], leaf)
        batch = Batch(tuple(applications), leaf, result, tuple(weights))
        self.batches |= dict.fromkeys(applications, batch)
        return result.detach()

    def transpose(
        self, place: Application, adjoint: Any, others: Sequence[Tensor], *, retain: bool
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
            with hooks_held(others):
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
