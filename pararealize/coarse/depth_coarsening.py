"""Depth coarsening: rewrite a piece of the chain so that one layer stands for several of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import final

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
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

    Args:
        setting: of the chain.
        layers: costs of the layers as they are copied.
        taken: which layers of an interval are evaluated.

    """

    def __init__(self, setting: Setting, layers: LayerCosts, taken: Taken) -> None:
        chain, costs = setting.chain, setting.chain.profile.costs
        self.layers, self.taken = layers, taken
        bodies = zip(chain.layers, setting.bodies, layers.each, strict=True)
        self.residuals = LayerCosts(
            tuple(
                cost - costs[body.operations[-1].name]
                if layer.branch is not None and layer.span is None
                else Cost()
                for layer, body, cost in bodies
            )
        )
        both = zip(layers.each, self.residuals.each, strict=True)
        self.rest = LayerCosts(tuple(cost - residual for cost, residual in both))
        self.strided: dict[tuple[int, int], list[Cost]] = {}

    def between(self, first: int, last: int, runs: Sequence[RepeatedBlocks], stride: int) -> Cost:
        """Of the layers ``first`` … ``last - 1`` whose runs are coarsened by a stride."""
        total, at = Cost(), first
        for run in runs:
            if run.start > at:
                total += self.layers.between(at, run.start)
            total += self.run(run, stride)
            at = run.stop
        return total + self.layers.between(at, last) if at < last else total

    def run(self, run: RepeatedBlocks, stride: int) -> Cost:
        """Of a run's intervals of ``stride`` blocks; the last may be shorter."""
        whole, rest = divmod(run.count, stride)
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
        """Of an interval of so many blocks from the layer ``start`` on."""
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
        """For every layer the intervals from there on, one after another to the chain's end."""
        if (period, stride) not in self.strided:
            size, length = len(self.layers.each), period * stride
            found = [Cost()] * (size + 1)
            for i in range(size - length, -1, -1):
                found[i] = self.interval(i, period, stride) + found[i + length]
            self.strided[period, stride] = found
        return self.strided[period, stride]


def coarsened(
    chain: Chain,
    first: int,
    last: int,
    stride: int,
    taken: Taken,
    *,
    averages: bool = False,
    weights: Weights | None = None,
) -> tuple[Segment | None, Mapping[str, tuple[str, ...]]]:
    """The layers ``first`` … ``last - 1`` with one layer for each ``stride`` of a run.

    Weights are the interval's first layer's, or with ``averages`` the means of all. ``None`` where
    nothing repeats. Beside it stand, for the modules and attributes of layers with
    mean weights, those that the mean is taken of.
    """
    runs = repeated_blocks(chain, first, last)
    if not runs:
        return None, {}
    writer = _IntervalWriter(chain, taken, averages, weights or {})
    whole = chain.segment(first, last, training=True)
    operations = [o for o in whole.operations if o.kind in AMBIENT]
    starts = {run.start: run for run in runs}
    at = first
    while at < last:
        run = starts.get(at, RepeatedBlocks(at, 1, 1))
        for interval in run.intervals(stride):
            writer.interval(interval)
        at = run.stop
    segment = whole.rewritten((*operations, *writer.operations), writer.names)
    return without_dead_code(segment), writer.averages


@final
class _IntervalWriter:
    """Operations of the new layers; ``names`` says what stands for the values of the old ones."""

    def __init__(self, chain: Chain, taken: Taken, means: bool, weights: Weights) -> None:
        self.chain, self.taken, self.means, self.weights = chain, taken, means, weights
        self.operations: list[Operation] = []
        self.names: dict[str, str] = {}
        self.averages: dict[str, tuple[str, ...]] = {}

    def interval(self, blocks: list[tuple[int, ...]]) -> None:
        """One layer for each position in the blocks, in place of all of theirs."""
        if len(blocks) == 1:
            for layer in blocks[0]:
                self._copy(self._body(layer))
            return
        if not self.taken(len(blocks)):
            self._skip(i for block in blocks for i in block)
            return
        if self.means:
            self._average(blocks)
        for place in range(len(blocks[0])):
            self._layer([block[place] for block in blocks])
        self._rename(blocks[0][-1], blocks[-1][-1])
        self._skip(i for block in blocks[1:-1] for i in block)

    def _layer(self, layers: list[int]) -> None:
        """The layers at one place of all blocks: the first of them, and what others add to it."""
        first, body = layers[0], self._body(layers[0])
        branch, span = self.chain.layers[first].branch, self.chain.layers[first].span
        if span is not None:
            options = {**body[-1].kwargs, "span": float(len(layers))}
            self._copy((*body[:-1], replace(body[-1], kwargs=options)))
            return
        if branch is None:
            self._copy(body)
            return
        indices = self.taken(len(layers))
        factors = self.weights.get(first, [len(layers) / len(indices)] * len(indices))
        terms = [
            self._scaled(self._branch(layers[i], first), factor)
            for i, factor in zip(indices, factors, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = self._write(f"{term}_sum", operator.add, Ref(total), Ref(term))
        self.operations.append(body[-1].renamed({**self.names, branch: total}))

    def _branch(self, layer: int, first: int) -> str:
        """φ of a layer, evaluated at what comes before the first."""
        before = self.chain.interfaces[layer - 1].values[0]
        start = self.chain.interfaces[first - 1].values[0]
        names = {**self.names, before: self.names.get(start, start)}
        self.operations += [o.renamed(names) for o in self._body(layer)[:-1]]
        return self.chain.layers[layer].branch or ""

    def _scaled(self, name: str, factor: float) -> str:
        if factor == 1:
            return name
        return self._write(f"{name}_scaled", operator.mul, Ref(name), float(factor))

    def _write(self, name: str, function: object, *args: object) -> str:
        self.operations.append(Operation(name, "function", function, args))
        return name

    def _body(self, layer: int) -> tuple[Operation, ...]:
        whole = self.chain.segment(layer, layer + 1, training=True).operations
        return tuple(o for o in whole if o.kind not in AMBIENT)

    def _copy(self, body: Iterable[Operation]) -> None:
        self.operations += [operation.renamed(self.names) for operation in body]

    def _rename(self, first: int, last: int) -> None:
        """What was made in place of the first layer stands for the last one's value."""
        values = (self.chain.interfaces[i].values[0] for i in (first, last))
        made, meant = values
        self.names[meant] = self.names.get(made, made)

    def _skip(self, layers: Iterable[int]) -> None:
        for layer in layers:
            self.names.update(bypass_layer(self.chain, layer, self.names))

    def _average(self, blocks: list[tuple[int, ...]]) -> None:
        train = self.chain.train
        bodies = [[o for i in block for o in self._body(i)] for block in blocks]
        for same in zip(*bodies, strict=True):
            if same[0].kind == "module" and len({o.target for o in same}) > 1:
                self.averages[same[0].target] = tuple(o.target for o in same)
            for names in zip(*(o.uses for o in same), strict=True):
                if train[names[0]].kind == "attribute":
                    self.averages[train[names[0]].target] = tuple(train[n].target for n in names)
