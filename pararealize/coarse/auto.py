"""Auto: the cheapest coarse propagator without new weights that contracts, or a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from pararealize.coarse.intervals import Identity, Rediscretized
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.network import Network
from pararealize.coarse.setting import Setting, Site
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse

#: A sweep must at least halve an error for a coarse propagator without weights to be chosen.
CONTRACTS = 0.5


@final
@dataclass(frozen=True)
class Auto(CoarseKind):
    """Identity or rediscretized where a probe says that they contract, else a fresh network.

    Multigrid chooses among intervals by their errors, and calibration among all candidates.
    """

    name = "auto"
    methods = ("Parareal", "MGRIT")
    heeds = ("coarse_depth", "coarse_budget")
    takes_tuples = True
    keeps_zero = True
    depth: int = 1
    budget: float = 0.75

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of networks: what contracts is known of built propagators only."""
        return Network(self.depth, self.budget).costs(setting, first)

    def build(self, site: Site) -> Coarse | None:
        """The choice.

        Raises:
            CoarseError: nothing contracts, and no network is known.

        """
        free = [c for c in (Identity().build(site), Rediscretized().build(site)) if c is not None]
        for coarse in sorted(free, key=lambda c: c.cost.seconds) if site.probe else ():
            assert site.probe is not None
            error = site.probe.response_error(site.number, coarse.module, coarse.segment)
            if error < CONTRACTS:
                return replace(coarse, error=error)
        network = Network(self.depth, self.budget)
        found = network.build(site)
        if found is None:
            raise network.refusal(site)
        return found
