"""V-cycle: steps on a deep network, a correction from shallower ones, steps again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.layers.carried import lift, lower, set_states, states_of
from pararealize.layers.depth_level import DepthLevel
from pararealize.layers.transfer import Values

Loss = Callable[[nn.Module, Any], Tensor]

#: Of the line search: how much of the promised decrease is wanted, and the smallest step tried.
ARMIJO, LEAST = 1e-4, 1 / 32

#: A forward pass is this share of a gradient evaluation: the backward pass takes twice as long.
FORWARD = 1 / 3


@final
@dataclass(frozen=True)
class Smoothing:
    """How many steps a cycle takes on every depth, and whether corrections are searched along."""

    before: int
    coarse_steps: int
    after: int
    line_search: bool


@final
@dataclass(frozen=True)
class Slope:
    """A batch, and value and gradient there of what a level minimises."""

    batch: Any
    value: float
    gradient: Values


@final
class VCycle:
    """Cycles over levels, the shallowest first: counts what it evaluates, keeps the losses.

    Level i minimises L_i(θ) - ⟨shift, θ⟩ in the inner product of its counts.
    """

    def __init__(self, levels: Sequence[DepthLevel], loss: Loss, smoothing: Smoothing) -> None:
        self.levels, self.smoothing = tuple(levels), smoothing
        self.gradients = [0] * len(levels)
        self.work = 0.0
        self.losses: list[float] = []
        self._loss = loss

    @property
    def batches(self) -> int:
        """How many a cycle takes; what begins a level below the deepest is known from above."""
        given, deeper = self.smoothing, len(self.levels) - 1
        return given.coarse_steps + deeper * (given.before + given.after)

    def run(self, batches: Sequence[Any]) -> None:
        """One cycle, or steps of the deepest network where batches are too few for one."""
        top, rest = len(self.levels) - 1, iter(batches)
        if len(batches) < self.batches:
            self._steps(top, len(batches), rest, {})
        else:
            self._visit(top, rest, {})

    def slope(self, i: int, batch: Any, shift: Values) -> Slope:
        """Evaluate the gradient of what level i minimises."""
        level = self.levels[i]
        loss, gradient = level.differentiate(self._loss, batch)
        self.gradients[i] += 1
        self.work += level.cost
        if i == len(self.levels) - 1:
            self.losses.append(loss)
        return Slope(batch, loss - level.inner(shift, level.parameters), minus(gradient, shift))

    def _visit(
        self, i: int, batches: Iterator[Any], shift: Values, known: Slope | None = None
    ) -> None:
        """Steps and corrections of level i; the gradient that it begins with may be known."""
        given = self.smoothing
        known = self._steps(i, given.before if i else given.coarse_steps, batches, shift, known)
        if i:
            self._correct(i, batches, shift, known)
            self._steps(i, given.after, batches, shift)

    def _steps(
        self,
        i: int,
        count: int,
        batches: Iterator[Any],
        shift: Values,
        known: Slope | None = None,
    ) -> Slope | None:
        """Steps of level i's optimizer; what is known serves the first, or is handed back."""
        for _ in range(count):
            found = known or self.slope(i, next(batches), shift)
            known = None
            self.levels[i].step(found.gradient)
        return known

    def _correct(self, i: int, batches: Iterator[Any], shift: Values, known: Slope | None) -> None:
        """Minimise on level i - 1, and move level i by what has changed there."""
        fine, coarse, down = self.levels[i], self.levels[i - 1], self.levels[i].down
        assert down is not None
        known = known or self.slope(i, next(batches), shift)
        down.inject(coarse.net, fine.net)
        states = lower(down, fine.optimizer, fine.parameters, coarse.parameters)
        set_states(coarse.optimizer, coarse.parameters, states)
        start = coarse.values()
        wanted = down.restrict(known.gradient)
        found = self.slope(i - 1, known.batch, {})
        term = minus(found.gradient, wanted)
        value = found.value - coarse.inner(term, start)
        self._visit(i - 1, batches, term, Slope(known.batch, value, wanted))
        change = down.prolong(minus(coarse.values(), start))
        if self._move(i, change, known, shift):
            reached = states_of(coarse.optimizer, coarse.parameters)
            lifted = lift(down, fine.optimizer, fine.parameters, states, reached)
            set_states(fine.optimizer, fine.parameters, lifted)

    @torch.no_grad()
    def _move(self, i: int, change: Values, known: Slope, shift: Values) -> bool:
        """Add the change, or as much of it as decreases what level i minimises; whether any."""
        level = self.levels[i]
        start, length = level.values(), 1.0
        if not self.smoothing.line_search:
            level.place(start, change, length)
            return True
        promised = level.inner(known.gradient, change)
        with kept_buffers(level.net):
            while promised < 0 and length >= LEAST:
                level.place(start, change, length)
                if self._value(i, known.batch, shift) <= known.value + ARMIJO * length * promised:
                    return True
                length /= 2
        level.place(start, change, 0.0)
        return False

    def _value(self, i: int, batch: Any, shift: Values) -> float:
        level = self.levels[i]
        self.work += FORWARD * level.cost
        return float(self._loss(level.net, batch)) - level.inner(shift, level.parameters)


def minus(first: Values, second: Values) -> dict[str, Tensor]:
    """Differences; what only one of them has is zero in the other."""
    found = {
        name: value - second[name] if name in second else value for name, value in first.items()
    }
    return found | {name: -value for name, value in second.items() if name not in first}


@contextmanager
def kept_buffers(net: nn.Module) -> Iterator[None]:
    """A block after which buffers, as running statistics, are what they were."""
    held = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for buffer, value in held:
            buffer.copy_(value)
