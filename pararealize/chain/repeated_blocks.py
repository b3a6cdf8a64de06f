"""Repeated blocks: neighbouring residual layers that repeat, which coarse propagators step over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pararealize.ir.chain import Chain, Layer

#: Most layers in a block that repeats, for instance residual, activation, residual, activation.
LONGEST = 6


@dataclass(frozen=True)
class RepeatedBlocks:
    """``count`` blocks of ``period`` layers each, from the layer ``start`` on, that repeat.

    A block has at least one residual layer x + φ(x), or a step in time that can span several; the
    others have no weights, as the activations of post-activation networks.
    """

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        """The layer after the last."""
        return self.start + self.period * self.count

    def weighted(self, chain: Chain) -> int:
        """Layers with weights in one block."""
        block = chain.layers[self.start : self.start + self.period]
        return sum(layer.cost.flops > 0 for layer in block)

    def blocks(self, first: int, last: int) -> list[tuple[int, ...]]:
        """The layers of the blocks ``first`` … ``last - 1``."""
        starts = (self.start + i * self.period for i in range(first, last))
        return [tuple(range(start, start + self.period)) for start in starts]

    def intervals(self, stride: int) -> Iterator[list[tuple[int, ...]]]:
        """Its blocks in groups of ``stride``; the last group may be shorter."""
        for i in range(0, self.count, stride):
            yield self.blocks(i, min(i + stride, self.count))


def repeated_blocks(chain: Chain, first: int, last: int) -> list[RepeatedBlocks]:
    """The runs of two or more blocks among the layers ``first`` … ``last - 1``, from the left."""
    found: list[RepeatedBlocks] = []
    at = first
    while at < last:
        run = _blocks_from(chain, at, last)
        if run is not None:
            found.append(run)
        at = run.stop if run is not None else at + 1
    return found


def _blocks_from(chain: Chain, at: int, last: int) -> RepeatedBlocks | None:
    for period in range(1, min(LONGEST, (last - at) // 2) + 1):
        block = chain.layers[at : at + period]
        if not all(map(_repeats, block)) or not any(map(_steps, block)):
            continue
        signature = [layer.signature for layer in block]
        count = 1
        while _signatures(chain, at + count * period, period, last) == signature:
            count += 1
        if count > 1:
            return RepeatedBlocks(at, period, count)
    return None


def _repeats(layer: Layer) -> bool:
    return layer.preserves and (_steps(layer) or layer.cost.flops == 0)


def _steps(layer: Layer) -> bool:
    """Whether a layer can stand for several."""
    return layer.branch is not None or layer.span is not None


def _signatures(chain: Chain, start: int, count: int, last: int) -> list[tuple[object, ...]]:
    layers = chain.layers[start : min(start + count, last)]
    residual = all(map(_repeats, layers)) and any(map(_steps, layers))
    return [layer.signature for layer in layers] if residual else []


def most_repeats(chain: Chain, first: int, last: int) -> int:
    """Blocks of the longest run among the layers; 1 where there is none."""
    return max((run.count for run in repeated_blocks(chain, first, last)), default=1)
