"""Estimate: what coarse and guess networks of a piece will cost, before they are built."""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate

import torch
from torch import nn

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
from pararealize.coarse.copies import factored_cost
from pararealize.coarse.pruning import Pruning, is_weighted, pruned_cost
from pararealize.cost.profile import module_cost
from pararealize.ir.chain import Chain, State, TensorSpec
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.plan import Machine
from pararealize.propagators.generic import generic_coarse, generic_guess


class Estimate:
    """Predicted seconds of what parareal adds to the piece ``first`` … ``last - 1``."""

    def __init__(self, chain: Chain, model: nn.Module, method: Method, machine: Machine) -> None:
        self.chain, self.model, self.machine, self.sweeps = chain, model, machine, 1
        self.share: float | None = None
        if isinstance(method, MGRIT):  # its coarse propagators are a share of the layers
            self.share = 1 / method.factors[0]
            method = Parareal(coarse="identity", guess="coarse", correction="difference")
        else:
            self.sweeps = method.iterations
        self.method = method
        self.fine = [0.0, *accumulate(layer.cost.seconds for layer in chain.layers)]
        each = method.coarse_depth
        # Which piece it will be is not known yet.
        self.depth = each if isinstance(each, int) else round(sum(each) / len(each))
        how = Pruning(self.depth, method.correction == "difference")
        costs = [pruned_cost(chain, model, i, how).seconds for i in range(len(chain.layers))]
        layers = chain.layers
        changes = [is_weighted(x) and not x.preserves for x in layers]
        self.changing = [0.0, *accumulate(c * d for c, d in zip(costs, changes, strict=True))]
        self.changes = [0, *accumulate(map(int, changes))]
        self.repeated = [i for i, x in enumerate(layers) if is_weighted(x) and x.preserves]
        self.costs = costs
        self.runs = repeated_blocks(chain, 0, len(layers))
        self.next_repeated = _next(self.repeated, len(layers))
        self._generic: dict[tuple[int, int], float] = {}
        self._guesses: dict[State, float] = {}

    def seconds(self, first: int, last: int) -> float:
        """Fine cost of the piece."""
        return self.fine[last] - self.fine[first]

    def coarse(self, first: int, last: int) -> float:
        """One evaluation of the piece's coarse propagator."""
        if self.share is not None:
            return self.share * self.seconds(first, last)
        kind = self.method.coarse
        if kind == "identity" or callable(kind):
            return 0.0
        copies = {"fine": self.seconds, "stepped": self.stepped, "factored": self.factored}
        if kind in copies:
            return copies[kind](first, last)
        own = self.own(first, last)
        if own <= self.method.coarse_budget * self.seconds(first, last):
            return own
        return min(own, self.generic(self.chain.state(first), self.chain.state(last)))

    def own(self, first: int, last: int) -> float:
        """A network of the piece's own layers: those that change shape and a few repeated ones."""
        missing = self.depth - (self.changes[last] - self.changes[first])
        total = self.changing[last] - self.changing[first]
        i = self.next_repeated[first]
        for j in self.repeated[i : i + max(0, missing)]:
            total += self.costs[j] if j < last else 0.0
        return total

    def stepped(self, first: int, last: int) -> float:
        """Layers that change the shape, and steps in place of the runs of residual blocks."""
        inside = [(run, min(last, run.stop) - max(first, run.start)) for run in self.runs]
        blocks = {run: layers // run.period for run, layers in inside if layers >= run.period}
        stride = -(-max(blocks.values(), default=1) // max(self.depth, 1))
        steps = sum(-(-count // stride) * self.block(run) for run, count in blocks.items())
        return self.changing[last] - self.changing[first] + steps

    def factored(self, first: int, last: int) -> float:
        """All of its layers, with weights of low rank."""
        return self.low_rank[last] - self.low_rank[first]

    @cached_property
    def low_rank(self) -> list[float]:
        """Cost of the layers before each one, were their weights of low rank."""
        chain, share = self.chain, self.method.coarse_rank
        bodies = [chain.segment(i, i + 1, training=True) for i in range(len(chain.layers))]
        costs = [factored_cost(chain, self.model, body.operations, share) for body in bodies]
        return [0.0, *accumulate(cost.seconds for cost in costs)]

    def block(self, run: RepeatedBlocks) -> float:
        """One block of a run."""
        return sum(self.costs[run.start : run.start + run.period])

    def generic(self, source: State, target: State) -> float:
        """A generic network between two states; infinite where none is known."""
        key = (id(source), id(target))
        if key not in self._generic:
            with torch.device("meta"):
                module = generic_coarse(source, target, bias=False)
            self._generic[key] = self._price(module, source)
        return self._generic[key]

    def guess(self, layer: int) -> float:
        """The guess network that starts a piece at ``layer``."""
        state = self.chain.state(layer)
        if self.method.guess != "network" or not state:
            return 0.0
        if state not in self._guesses:
            source = main_input(self.chain)
            with torch.device("meta"):
                module = generic_guess(source, state[0]) if source and len(state) == 1 else None
            cost = self._price(module, (source,)) if module and source else self.changing[layer]
            self._guesses[state] = cost
        return self._guesses[state]

    def _price(self, module: nn.Module | None, state: State) -> float:
        if module is None:
            return float("inf")
        return module_cost(module.to(state[0].dtype), state, self.machine).seconds


def main_input(chain: Chain) -> TensorSpec | None:
    """The network's only tensor input, or ``None``."""
    specs = [s for s in chain.profile.inputs.values() if isinstance(s, TensorSpec)]
    return specs[0] if len(specs) == 1 else None


def input_names(chain: Chain) -> tuple[str, ...]:
    """The name of the network's only tensor input."""
    source = main_input(chain)
    return tuple(name for name, spec in chain.profile.inputs.items() if spec == source)[:1]


def _next(positions: list[int], size: int) -> list[int]:
    """For every index up to ``size``, which of the ascending positions is the first not below."""
    found, k = [], 0
    for i in range(size + 1):
        while k < len(positions) and positions[k] < i:
            k += 1
        found.append(k)
    return found
