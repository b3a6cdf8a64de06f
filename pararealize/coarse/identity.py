"""Identity: the state itself as the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from pararealize.coarse.intervals import IntervalKind
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.setting import Setting, Site
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.propagators.generic import has_identity, identity


@final
@dataclass(frozen=True)
class Identity(IntervalKind):
    """x, pooled, cut off or padded where the shape changes; on multigrid's levels, x itself."""

    name = "identity"
    keeps_zero = True

    @classmethod
    def candidates(cls) -> tuple[CoarseKind, ...]:
        """It."""
        return (cls(),)

    def taken(self, count: int) -> Sequence[int]:
        """None."""
        return range(count)[:0]

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Nothing; ``None`` where shapes are too different."""
        for last in range(first + 1, len(setting.chain.layers) + 1):
            yield Cost() if has_identity(*setting.states(first, last)) else None

    def build(self, site: Site) -> Coarse | None:
        """The map without parameters between the states' shapes."""
        module = identity(*site.states)
        return None if module is None else self.network(site, Cost(), module)

    def reason(self, site: Site) -> str:
        """The shapes."""
        return CoarseKind.reason(self, site)
