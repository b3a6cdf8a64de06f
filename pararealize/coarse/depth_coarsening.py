"""Depth coarsening: rewrite a piece of the chain so that one layer stands for several of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
from pararealize.coarse.pruning import bypass_layer, without_dead_code
from pararealize.ir.chain import Chain
from pararealize.ir.program import AMBIENT, Operation, Ref, Segment

#: What stands for an interval of m layers x + φ_i(x).
KINDS = ("rediscretized", "mean", "sampled", "summed", "fitted", "identity")
#: Weights of an interval's residuals, by the index of the interval's first layer.
Weights = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Coarsened:
    """A piece with large steps.

    ``averages`` names, for the modules and attributes of layers with mean weights, those that the
    mean is taken of.
    """

    segment: Segment
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def coarsened(
    chain: Chain,
    first: int,
    last: int,
    stride: int,
    kind: str,
    samples: int = 2,
    weights: Weights | None = None,
) -> Coarsened | None:
    """The layers ``first`` … ``last - 1`` with one layer for each ``stride`` of a run.

    Of an interval of m layers x + φ_i(x)::

        rediscretized   x + m φ_1(x)
        mean            x + m φ(x) with the mean of the weights
        sampled         x + m/s Σ φ_i(x), s of them, side by side
        summed          x + Σ φ_i(x)
        fitted          x + Σ a_i φ_i(x), s of them
        identity        x

    A step in time spans the interval's, whatever is asked. Other layers stay as they are.
    ``None`` where nothing repeats.
    """
    runs = repeated_blocks(chain, first, last)
    if not runs:
        return None
    writer = _IntervalWriter(chain, kind, samples, weights or {})
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
    return Coarsened(without_dead_code(segment), writer.averages)


def taken(kind: str, count: int, samples: int) -> list[int]:
    """Which of an interval's layers are evaluated."""
    if kind in {"rediscretized", "mean"} or count == 1:
        return [0]
    if kind == "summed" or samples >= count:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * samples) for i in range(samples)]


class _IntervalWriter:
    """Operations of the new layers; ``names`` says what stands for the values of the old ones."""

    def __init__(self, chain: Chain, kind: str, samples: int, weights: Weights) -> None:
        self.chain, self.kind, self.samples, self.weights = chain, kind, samples, weights
        self.operations: list[Operation] = []
        self.names: dict[str, str] = {}
        self.averages: dict[str, tuple[str, ...]] = {}

    def interval(self, blocks: list[tuple[int, ...]]) -> None:
        """One layer for each position in the blocks, in place of all of theirs."""
        if len(blocks) == 1:
            for layer in blocks[0]:
                self._copy(self._body(layer))
            return
        if self.kind == "identity":
            self._skip(i for block in blocks for i in block)
            return
        if self.kind == "mean":
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
        indices = taken(self.kind, len(layers), self.samples)
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
