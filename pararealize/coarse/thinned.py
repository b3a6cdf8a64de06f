"""Thinned: a copy of a subnetwork with the first of its repeated blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self, final

from pararealize.chain.repeated_blocks import repeated_blocks
from pararealize.coarse.copies import Whole, copy_of, thinner
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.pruning import Pruning, Selection, prune, selected_costs
from pararealize.coarse.setting import Setting, Site
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Method, Parareal

HOW = Pruning(normalisation=True, whole=True)


@final
@dataclass(frozen=True)
class Thinned(CoarseKind):
    """The layers that change the shape, and the first ``depth`` repeated blocks, as they are."""

    name = "thinned"
    heeds = ("coarse_depth",)
    owns_weights = True
    depth: int = 1

    @classmethod
    def of(cls, method: Method, j: int | None = None) -> Self:
        """Of the method's depth."""
        return cls(method.depth(j)) if isinstance(method, Parareal) else cls()

    @classmethod
    def candidates(cls) -> tuple[CoarseKind, ...]:
        """With one block, and with two."""
        return (cls(1), cls(2))

    @classmethod
    def substitutes(cls) -> tuple[CoarseKind, ...]:
        """With one block."""
        return (cls(1),)

    @property
    def instead(self) -> tuple[CoarseKind, ...]:
        """All of it, where there is none to leave out."""
        return (Whole(),)

    def __str__(self) -> str:
        return f"{self.name} {self.depth}"

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of the layers kept; ``None`` where that is all."""
        for selection, cost in selected_costs(setting, first, HOW):
            last = selection.stop
            count = self._repeated(setting.chain, first, last)
            yield thinner(setting, first, last, cost(count))

    def build(self, site: Site) -> Coarse | None:
        """The copy, or ``None`` where it would be whole."""
        chain = site.setting.chain
        selection = Selection(chain, site.first).until(site.last)
        kept = HOW.kept(selection, self._repeated(chain, *site.span))
        segment = prune(chain, site.setting.model, *site.span, kept, HOW)
        return copy_of(self, site, segment, whole=False)

    def _repeated(self, chain: Chain, first: int, last: int) -> int:
        """Repeated layers with weights in so many blocks."""
        runs = repeated_blocks(chain, first, last)
        return self.depth * max((run.weighted(chain) for run in runs), default=1)
