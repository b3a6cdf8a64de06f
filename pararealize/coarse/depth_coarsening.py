"""Depth coarsening: rewrite a piece of the chain so that one layer stands for several of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import final

from pararealize.chain.repeated_blocks import RepeatedBlocks
from pararealize.coarse.pruning import bypass_layer, without_dead_code
from pararealize.coarse.setting import LayerCosts, Setting
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.program import AMBIENT, Operation, Ref, Segment

#: Weights of an interval's residuals, by the index of the interval's first layer.
Weights = Mapping[int, Sequence[float]]

#: Which of so many layers in an interval are evaluated, side by side; none for the identity.
Taken = Callable[[int], Sequence[int]]


@final
class IntervalCosts:
    """Costs of runs of repeated blocks with one layer in place of several.

    ``layers`` are costs of the layers as they are copied.
    """

    def __init__(self, setting: Setting, layers: LayerCosts, taken: Taken) -> None:
        chain, costs = setting.chain, setting.chain.profile.costs
        self.layers, self.taken = layers, taken
        each = zip(chain.layers, setting.segments, layers.each, strict=True)
        self.residuals = LayerCosts(
            tuple(
                cost - costs[segment.operations[-1].name]
                if layer.branch is not None and layer.span is None
                else Cost()
                for layer, segment, cost in each
            )
        )
        both = zip(layers.each, self.residuals.each, strict=True)
        self.rest = LayerCosts(tuple(cost - residual for cost, residual in both))
        self.strided: dict[tuple[int, int], list[Cost]] = {}

    def between(self, first: int, last: int, runs: Sequence[RepeatedBlocks], stride: int) -> Cost:
        """Cost of the layers ``first`` … ``last - 1`` whose runs are coarsened by a stride."""
        parts, at = [], first
        for run in runs:
            if run.start > at:
                parts.append(self.layers.between(at, run.start))
            parts.append(self.run(run, stride))
            at = run.stop
        if at < last:
            parts.append(self.layers.between(at, last))
        return reduce(operator.add, parts) if parts else Cost()

    def run(self, run: RepeatedBlocks, stride: int) -> Cost:
        """Cost of a run in intervals of ``stride`` blocks, of which the last may be shorter."""
        whole, rest = divmod(run.blocks, stride)
        if not whole:
            return self.interval(run.start, run.period, rest)
        length = whole * stride * run.period
        if whole == 1:
            total = self.interval(run.start, run.period, stride)
        else:
            table = self._strided(run.period, stride)
            total = table[run.start] - table[run.start + length]
        return total + self.interval(run.start + length, run.period, rest) if rest else total

    def interval(self, start: int, period: int, count: int) -> Cost:
        """Cost of an interval of so many blocks from the layer ``start`` on."""
        taken = self.taken(count) if count > 1 else (0,)
        if not taken:
            return Cost()
        if len(taken) == 1 and not taken[0]:
            return self.layers.between(start, start + period)
        total = self.rest.between(start, start + period)
        if len(taken) == count:
            return total + self.residuals.between(start, start + count * period)
        for i in taken:
            total += self.residuals.between(start + i * period, start + (i + 1) * period)
        return total

    def _strided(self, period: int, stride: int) -> list[Cost]:
        """Cost of the intervals from every layer on, one after another to the chain's end."""
        if (period, stride) not in self.strided:
            size, length = len(self.layers.each), period * stride
            found = [Cost()] * (size + 1)
            for i in range(size - length, -1, -1):
                found[i] = self.interval(i, period, stride) + found[i + length]
            self.strided[period, stride] = found
        return self.strided[period, stride]


@final
class IntervalWriter:
    """Operations of one layer for each interval; ``names`` says what stands for the values before.

    Weights are the interval's first layer's, or with ``means`` the means of all.
    """

    def __init__(self, chain: Chain, taken: Taken, means: bool, weights: Weights) -> None:
        self.chain, self.taken, self.means, self.weights = chain, taken, means, weights
        self.operations: list[Operation] = []
        self.names: dict[str, str] = {}
        self.averages: dict[str, tuple[str, ...]] = {}

    def segment(self, first: int, last: int, runs: list[RepeatedBlocks], stride: int) -> Segment:
        """The layers ``first`` … ``last - 1``, whose runs have intervals of ``stride`` blocks."""
        whole = self.chain.segment(first, last, training=True)
        starts = {run.start: run for run in runs}
        at = first
        while at < last:
            run = starts.get(at, RepeatedBlocks(at, 1, 1))
            for interval in run.intervals(stride):
                self.interval(interval)
            at = run.stop
        ambient = (o for o in whole.operations if o.kind in AMBIENT)
        return without_dead_code(whole.rewritten((*ambient, *self.operations), self.names))

    def interval(self, blocks: list[tuple[int, ...]]) -> None:
        """One layer for each position in the blocks, in place of all of theirs."""
        if len(blocks) == 1:
            for layer in blocks[0]:
                self._copy(self._operations(layer))
            return
        if not self.taken(len(blocks)):
            self._skip(i for block in blocks for i in block)
            return
        if self.means:
            self._average(blocks)
        for layers in zip(*blocks, strict=True):
            self._layer(layers)
        # What was made in place of the first layer stands for the last one's value.
        made, meant = (self.chain.interfaces[b[-1]].values[0] for b in (blocks[0], blocks[-1]))
        self.names[meant] = self.names.get(made, made)
        self._skip(i for block in blocks[1:-1] for i in block)

    def _layer(self, layers: tuple[int, ...]) -> None:
        """One layer for those at one position of all blocks: the first, and what others add."""
        first, own = layers[0], self._operations(layers[0])
        branch, span = self.chain.layers[first].branch, self.chain.layers[first].span
        if span is not None:
            options = {**own[-1].kwargs, "span": float(len(layers))}
            self._copy((*own[:-1], replace(own[-1], kwargs=options)))
            return
        if branch is None:
            self._copy(own)
            return
        indices = self.taken(len(layers))
        factors = self.weights.get(first, [len(layers) / len(indices)] * len(indices))
        terms = []
        for i, factor in zip(indices, factors, strict=True):
            term = self._branch(layers[i], first)
            if factor != 1:
                term = self._write(f"{term}_scaled", operator.mul, Ref(term), float(factor))
            terms.append(term)
        total = terms[0]
        for term in terms[1:]:
            total = self._write(f"{term}_sum", operator.add, Ref(total), Ref(term))
        self.operations.append(own[-1].renamed({**self.names, branch: total}))

    def _branch(self, layer: int, first: int) -> str:
        """φ of a layer, evaluated at what comes before the first."""
        before = self.chain.interfaces[layer - 1].values[0]
        start = self.chain.interfaces[first - 1].values[0]
        names = {**self.names, before: self.names.get(start, start)}
        self.operations += [o.renamed(names) for o in self._operations(layer)[:-1]]
        return self.chain.layers[layer].branch or ""

    def _write(self, name: str, function: object, *args: object) -> str:
        self.operations.append(Operation(name, "function", function, args))
        return name

    def _operations(self, layer: int) -> tuple[Operation, ...]:
        return self.chain.segment(layer, layer + 1, training=True).own_operations

    def _copy(self, operations: Iterable[Operation]) -> None:
        self.operations += [operation.renamed(self.names) for operation in operations]

    def _skip(self, layers: Iterable[int]) -> None:
        for layer in layers:
            self.names.update(bypass_layer(self.chain, layer, self.names))

    def _average(self, blocks: list[tuple[int, ...]]) -> None:
        train = self.chain.train
        each = [[o for i in block for o in self._operations(i)] for block in blocks]
        for same in zip(*each, strict=True):
            if same[0].kind == "module" and len({o.target for o in same}) > 1:
                self.averages[same[0].target] = tuple(o.target for o in same)
            for names in zip(*(o.uses for o in same), strict=True):
                if train[names[0]].kind == "attribute":
                    self.averages[train[names[0]].target] = tuple(train[n].target for n in names)
