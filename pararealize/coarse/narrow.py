"""Narrow: costs of layers where wide ones that stand alone have weights of low rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pararealize.coarse.setting import LayerCosts, Setting
from pararealize.ir.chain import Cost
from pararealize.ir.program import Operation
from pararealize.propagators.narrow import narrow_rank, products_at


def narrow_ranks(setting: Setting, share: float) -> Mapping[str, int]:
    """Ranks by the path of the layer: a share of the largest where a layer is wide and alone.

    Alone are layers that are a whole layer of the chain: no branch of a residual block, of which
    a subnetwork has many and a coarse network keeps few.
    """
    if share == 1:
        return {}
    return setting.once(("narrow", share), lambda: _ranks(setting, share))


def _ranks(setting: Setting, share: float) -> dict[str, int]:
    called = Counter(o.target for o in setting.chain.train if o.kind == "module")
    alone = Counter[str]()
    for segment in setting.segments:
        modules = [o.target for o in segment.own_operations if o.kind == "module"]
        alone.update(modules if len(segment.own_operations) == 1 else ())
    paths = (path for path, count in alone.items() if count == called[path])
    ranks = {path: narrow_rank(setting.model.get_submodule(path), share) for path in paths}
    return {path: rank for path, rank in ranks.items() if rank is not None}


def narrow_cost(
    setting: Setting, operations: Iterable[Operation], ranks: Mapping[str, int]
) -> Cost:
    """Cost of operations with two layers in place of each that has a rank."""
    profile = setting.chain.profile
    each = ((operation, profile.cost((operation,))) for operation in operations)
    return sum((_narrowed(setting, o, cost, ranks) for o, cost in each), Cost())


def narrow_costs(setting: Setting, layers: LayerCosts, ranks: Mapping[str, int]) -> LayerCosts:
    """Costs of a chain's layers, rewritten as they may be, with those that have a rank narrowed."""

    def narrowed(layer: int, cost: Cost) -> Cost:
        own = setting.segments[layer].own_operations
        return _narrowed(setting, own[0], cost, ranks) if len(own) == 1 else cost

    return LayerCosts(tuple(narrowed(*pair) for pair in enumerate(layers.each)), layers.refused)


def _narrowed(setting: Setting, operation: Operation, cost: Cost, ranks: Mapping[str, int]) -> Cost:
    rank = ranks.get(operation.target) if operation.kind == "module" else None
    if rank is None or not cost.launches:
        return cost
    left = products_at(setting.model.get_submodule(operation.target), rank)
    second = setting.machine.cost(0.0, 0.0, launches=1)
    return cost._replace(flops=left * cost.flops, seconds=left * cost.seconds) + second
