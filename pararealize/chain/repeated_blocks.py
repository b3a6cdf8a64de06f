"""Repeated blocks: neighbouring residual layers that repeat, which coarse propagators step over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pararealize.ir.chain import Chain


class RepeatedBlocks(NamedTuple):
    """So many blocks of ``period`` layers each, from the layer ``start`` on, that repeat.

    A block has at least one residual layer x + φ(x), or a step in time that can span several; the
    others have no weights, as the activations of post-activation networks. A tuple, as a cut makes
    tens of thousands of them.
    """

    start: int
    period: int
    blocks: int

    @property
    def stop(self) -> int:
        """The layer after the last."""
        return self.start + self.period * self.blocks

    def weighted(self, chain: Chain) -> int:
        """Layers with weights in one block."""
        block = chain.layers[self.start : self.start + self.period]
        return sum(layer.is_weighted for layer in block)

    def intervals(self, stride: int) -> Iterator[list[tuple[int, ...]]]:
        """Its blocks, as their layers, in groups of ``stride``; the last group may be shorter."""
        starts = range(self.start, self.stop, self.period)
        blocks = [tuple(range(i, i + self.period)) for i in starts]
        return (blocks[i : i + stride] for i in range(0, self.blocks, stride))


def repeated_blocks(chain: Chain, first: int, last: int) -> list[RepeatedBlocks]:
    """The runs of two or more blocks among the layers ``first`` … ``last - 1``, from the left."""
    found: list[RepeatedBlocks] = []
    at, starts = first, chain.starts
    while (at := starts[at]) < last:
        period, most = chain.repeats[at]
        count = min(most, (last - at) // period)
        if count > 1:
            found.append(RepeatedBlocks(at, period, count))
        at += period * count if count > 1 else 1
    return found


def most_repeats(chain: Chain, first: int, last: int) -> int:
    """Blocks of the longest run among the layers; 1 where there is none."""
    return max((run.blocks for run in repeated_blocks(chain, first, last)), default=1)
