"""Exact: the subnetwork as its own coarse propagator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.setting import Setting, Site
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse


@final
@dataclass(frozen=True)
class Exact(CoarseKind):
    """The subnetwork itself: the exact case."""

    name = "fine"
    takes_tuples = True

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Those of the layers."""
        for last in range(first + 1, len(setting.chain.layers) + 1):
            yield setting.fine.between(first, last)

    def build(self, site: Site) -> Coarse | None:
        """The subnetwork's fine propagator, which is there."""
        return self.coarse(site.fine)
