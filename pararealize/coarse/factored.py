"""Factored: a copy of a subnetwork whose layers have weights of low rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from pararealize.coarse.copies import replica, replica_costs
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.setting import LayerCosts, Setting, Site, can_copy
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.program import Operation
from pararealize.propagators.factored import FactoredLayer, is_plain, products_left, rank_of
from pararealize.propagators.fresh import Fresh


@final
@dataclass(frozen=True)
class Factored(CoarseKind):
    """All layers, those that it makes cheaper with a share ``rank`` of their largest rank.

    It does not count as owning its weights: calibration starts from the subnetwork's own.
    """

    name = "factored"
    heeds = ("coarse_rank",)
    candidates = ({"rank": 0.5},)
    rank: float = 0.25

    def __str__(self) -> str:
        return f"{self.name} {self.rank:g}"

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of all layers; ``None`` where none becomes cheaper."""
        layers, changed = setting.once(self, lambda: self._layers(setting))
        for last in range(first + 1, len(setting.chain.layers) + 1):
            unchanged = changed[last] == changed[first] or layers.refuses(range(first, last))
            yield None if unchanged else layers.between(first, last)

    def _layers(self, setting: Setting) -> tuple[LayerCosts, list[int]]:
        """Their costs, and the count of those made cheaper before each one."""
        chain, model = setting.chain, setting.model
        copies = [replica(chain, model, i, i + 1).operations for i in range(len(chain.layers))]
        each = tuple(self._total(setting, operations) for operations in copies)
        cheaper = (sum(self._left(setting, o) < 1 for o in operations) for operations in copies)
        refused = replica_costs(setting).refused
        return LayerCosts(each, refused), list(accumulate(cheaper, initial=0))

    def build(self, site: Site) -> Coarse | None:
        """The copy, or ``None`` where low rank makes none of its layers cheaper."""
        setting = site.setting
        segment = replica(setting.chain, setting.model, *site.span)
        if not can_copy(segment):
            return None
        module = Fresh(setting.model, segment, bias=True, trained=True)
        ranks = {key: rank_of(layer, self.rank) for key, layer in module.layers.items()}
        if not any(ranks.values()):
            return None
        for key, rank in ranks.items():
            layer = module.layers[key]
            if rank is not None and is_plain(layer):
                module.layers[key] = FactoredLayer(layer, rank)
        cost = self._total(setting, segment.operations)
        return self.network(site, cost, module, segment.inputs)

    def _total(self, setting: Setting, operations: Iterable[Operation]) -> Cost:
        total = Cost()
        for operation in operations:
            cost, left = setting.chain.profile.cost((operation,)), self._left(setting, operation)
            total += cost._replace(flops=left * cost.flops, seconds=left * cost.seconds)
        return total

    def _left(self, setting: Setting, operation: Operation) -> float:
        """Products for each of the operation's own."""
        if operation.kind != "module":
            return 1.0
        return products_left(setting.model.get_submodule(operation.target), self.rank)

    def reason(self, site: Site) -> str:
        """The rank at which no layer becomes cheaper."""
        del site
        return f"no layer of it is cheaper with coarse_rank={self.rank:g} of its largest rank"
