"""Chains of numbers for the tests of multigrid: u_j = a_j u_{j-1}, coarse steps u_j = g u_{j-1}.

With the same a and g everywhere, k cycles of two levels make of u_0 the states

    u_j = Σ_{i ≤ k} C(j, i) (a - g)^i g^(j-i) u_0,

as u^{k+1}_j = g u^{k+1}_{j-1} + (a - g) u^k_{j-1}; adjoints likewise, from the other end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from pararealize import MGRIT
from pararealize.ir.hierarchy import hierarchy
from pararealize.ir.target import Target
from pararealize.ir.task import INPUT, Task
from pararealize.runtime.effects.masks import Masks
from pararealize.runtime.multigrid.solve import Solve
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.values.pytree import flatten
from pararealize.schedule.mgrit import iteration


class Moved(nn.Module):
    """A statistic: how often evaluations that may move it have moved it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))


class Number(nn.Module):
    """A propagator u → a m u with a mask m of the step, if it ``drops``; notes its evaluations."""

    def __init__(
        self, target: Target, factor: float, counts: Counter[Target], *, first: bool, drops: bool
    ) -> None:
        super().__init__()
        self.target, self.inputs = target, (INPUT,) if first else ()
        self.counts = counts
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.moved = Moved()
        self.masks = Masks(own_stream=False) if drops else None

    def stateful(self) -> list[nn.Module]:
        return [self.moved]

    def weights(self) -> list[Tensor]:
        return [self.factor]

    def forward(self, value: Tensor, *, commits: bool = True) -> Tensor:
        self.counts[self.target] += 1
        if commits:
            self.moved.count += 1
        mask: Any = 1.0
        if self.masks is not None:
            with self.masks.drawn((value,)):
                mask = torch.rand_like(value) + 0.5
        return self.factor * mask * value


class Nobody:
    """Messages where there is one rank."""

    def send(self, task: Task, value: Any) -> None:
        raise AssertionError

    def receive(self, task: Task) -> Any:
        raise AssertionError

    def agree(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def drawing(self, target: Target) -> AbstractContextManager[None]:
        return nullcontext()

    def noted(self, _task: Task) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class Solved:
    """A call: the last state, and all that is known of it."""

    state: Tensor
    solve: Solve


class Numbers:
    """A solver for a chain of numbers, by cycles of two levels."""

    def __init__(
        self, fine: Sequence[float], coarse: float, *, drops: bool = False, **options: Any
    ) -> None:
        options = {"guard": 1e9, **options}
        method = MGRIT(2, 2, "rediscretized", **options)
        n = len(fine)
        self.counts: Counter[Target] = Counter()
        self.fine = [self._number(Target.fine(j), a, drops) for j, a in enumerate(fine, start=1)]
        self.coarse = [self._number(Target.coarse(j), coarse, False) for j in range(1, n + 1)]
        parts = {part.target: part for part in (*self.fine, *self.coarse)}
        cycles = iteration(hierarchy([2] * n, (2,)), method, head=False)
        self.solver = MultigridSolver(cycles, parts, (0,), lambda _rank, value: value)
        self.x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)

    def _number(self, target: Target, factor: float, drops: bool) -> Number:
        return Number(target, factor, self.counts, first=target.number == 1, drops=drops)

    def solve(self, *, learns: bool = False) -> Solved:
        self.counts.clear()
        for part in self.fine:
            if part.masks is not None:
                part.masks.begin_step()
        solved = self.solver.solve({INPUT: self.x}, Nobody(), learns=learns)
        return Solved(solved.values[0, solved.cycles.schedule.output], solved)

    def others(self) -> list[Tensor]:
        return [*(part.factor for part in self.fine), self.x]

    def transpose(self, solved: Solved, *, retain: bool = False) -> list[Tensor]:
        """Gradients of the factors and of the input, where the adjoint of the last state is 1."""
        self.counts.clear()
        solved.solve.structure = flatten(solved.state)[1]
        ones = [torch.ones_like(solved.state)]
        found = self.solver.transpose(solved.solve, ones, self.others(), retain=retain)
        return [torch.zeros(()) if each is None else each for each in found]


def after_cycles(a: float, g: float, j: int, k: int) -> float:
    """u_j / u_0 after k cycles."""
    return sum(comb(j, i) * (a - g) ** i * g ** (j - i) for i in range(min(j, k) + 1))
