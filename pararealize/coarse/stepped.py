"""Stepped: a copy of a subnetwork with a few longer steps in place of its repeated blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, final

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
from pararealize.coarse.copies import Whole, copy_of, replica_costs, thinner
from pararealize.coarse.depth_coarsening import IntervalCosts
from pararealize.coarse.intervals import Rediscretized
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.pruning import without_dropout
from pararealize.coarse.setting import Setting, Site
from pararealize.coarse.thinned import Thinned
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Method, Parareal


@final
@dataclass(frozen=True)
class Stepped(CoarseKind):
    """``depth`` blocks from all of the longest run of residual ones, with steps as much longer."""

    name = "stepped"
    heeds = ("coarse_depth",)
    owns_weights = True
    depth: int = 1

    @classmethod
    def of(cls, method: Method, j: int | None = None) -> Self:
        """Of the method's depth."""
        return cls(method.depth(j)) if isinstance(method, Parareal) else cls()

    @classmethod
    def candidates(cls) -> tuple[CoarseKind, ...]:
        """With one block, and with three."""
        return (cls(1), cls(3))

    @property
    def instead(self) -> tuple[CoarseKind, ...]:
        """A thinned copy where no residual blocks repeat, and all of it."""
        return (Thinned(self.depth), Whole())

    def __str__(self) -> str:
        return f"{self.name} {self.depth}"

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of the blocks kept, and of all other layers; ``None`` where those are all."""
        layers = replica_costs(setting)
        costs = setting.once(Stepped, lambda: IntervalCosts(setting, layers, Rediscretized().taken))
        for last in range(first + 1, len(setting.chain.layers) + 1):
            runs = repeated_blocks(setting.chain, first, last)
            if not runs or layers.refuses(range(first, last)):
                yield None
                continue
            cost = costs.between(first, last, runs, self._stride(runs))
            yield thinner(setting, first, last, cost)

    def build(self, site: Site) -> Coarse | None:
        """The copy, or ``None`` where no residual blocks repeat or it would be whole."""
        chain = site.setting.chain
        stride = self._stride(repeated_blocks(chain, *site.span))
        segment, _ = Rediscretized().coarsened(chain, *site.span, stride)
        if segment is not None:
            segment = without_dropout(chain, site.setting.model, segment)
        return copy_of(self, site, segment, whole=False)

    def _stride(self, runs: Sequence[RepeatedBlocks]) -> int:
        most = max((run.count for run in runs), default=1)
        return -(-most // max(self.depth, 1))
