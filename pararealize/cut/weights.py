"""Weights: what pieces of a chain take with their coarse and guess networks, before those exist."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import inf
from typing import final

from torch import nn

from pararealize.coarse.guesses import guess_costs
from pararealize.coarse.intervals import IntervalKind, Rediscretized
from pararealize.coarse.kind import costs_of
from pararealize.coarse.registry import asked
from pararealize.coarse.setting import Setting
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.plan import Machine


@final
class Weights:
    """Predicted seconds of the piece ``first`` … ``last - 1`` and of what a method adds to it.

    They are infinite where what is asked for does not exist.
    """

    def __init__(self, chain: Chain, model: nn.Module, method: Method, machine: Machine) -> None:
        self.method = method
        self.setting = Setting.of(chain, model, machine, method)
        self.kind = asked(method)
        self._fine = [0.0, *accumulate(layer.cost.seconds for layer in chain.layers)]
        self._walks: dict[int, Iterator[Cost | None]] = {}
        self._coarse: dict[int, list[float]] = {}
        guessed = isinstance(method, Parareal) and method.guess == "network"
        self.guesses = guess_costs(self.setting, len(chain.layers)) if guessed else []

    def fine(self, first: int, last: int) -> float:
        """The piece itself."""
        return self._fine[last] - self._fine[first]

    def coarse(self, first: int, last: int) -> float:
        """One evaluation of its coarse propagator."""
        known = self._coarse.setdefault(first, [])
        if len(known) < last - first:
            walk = self._walks.setdefault(first, self._walk(first))
            while len(known) < last - first:
                cost = next(walk)
                known.append(inf if cost is None else cost.seconds)
        return known[last - first - 1]

    def _walk(self, first: int) -> Iterator[Cost | None]:
        """Costs of coarse propagators from a layer on, in multigrid those of level 2."""
        if isinstance(self.method, Parareal):
            return costs_of(self.kind, self.setting, first)
        kind = self.kind if isinstance(self.kind, IntervalKind) else Rediscretized()
        return kind.level_costs(self.setting, first, self.method.factors[0])

    def guess(self, first: int) -> float:
        """The guess of the state before it, by a network of its own."""
        cost = self.guesses[first] if self.guesses else Cost()
        return inf if cost is None else cost.seconds

    def added(self, first: int, last: int) -> float:
        """Its guess and its corrections; the first piece has none, and may have to guess."""
        method = self.method
        if first == 0:
            sweeps = isinstance(method, Parareal) and method.guess == "coarse"
            return inf if sweeps and self.coarse(first, last) == inf else 0.0
        count = method.iterations if isinstance(method, Parareal) else 1
        evaluations = 1 if self.setting.difference or self.kind.keeps_zero else 2
        corrections = count * evaluations * self.coarse(first, last) if count else 0.0
        return self.guess(first) + corrections
