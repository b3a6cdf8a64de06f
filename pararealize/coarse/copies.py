"""Copies: coarse networks made of a piece's own layers, which start from their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import nn

from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.pruning import without_dead_code, without_dropout
from pararealize.coarse.setting import LayerCosts, Setting, Site, can_copy
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.program import Segment
from pararealize.propagators.fresh import Fresh


def replica(chain: Chain, model: nn.Module, first: int, last: int) -> Segment:
    """The piece ``first`` … ``last - 1`` to run with weights of its own, without dropout."""
    return without_dropout(
        chain, model, without_dead_code(chain.segment(first, last, training=True))
    )


def replica_costs(setting: Setting) -> LayerCosts:
    """Costs of the layers as copies have them, without dropout."""
    chain, model = setting.chain, setting.model
    return setting.rewritten("replica", lambda i: replica(chain, model, i, i + 1))


def thinner(setting: Setting, first: int, last: int, cost: Cost | None) -> Cost | None:
    """The cost, where it is of fewer operations than the layers ``first`` … ``last - 1`` have."""
    if cost is None or cost.launches >= setting.fine.between(first, last).launches:
        return None
    return cost


def copy_of(kind: CoarseKind, site: Site, segment: Segment | None, *, whole: bool) -> Coarse | None:
    """A copy of a segment; ``None`` where it is ``whole`` against the kind, or cannot be copied."""
    if segment is None or not can_copy(segment):
        return None
    cost: Cost | None = site.setting.chain.profile.cost(segment.operations)
    cost = cost if whole else thinner(site.setting, *site.span, cost)
    if cost is None:
        return None
    module = Fresh(site.setting.model, segment, bias=True, trained=True)
    return kind.network(site, cost, module, segment.inputs)


@final
@dataclass(frozen=True)
class Whole(CoarseKind):
    """A copy of all layers as they are."""

    name = "whole"
    methods = ()

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of all layers, without dropout."""
        replicas = replica_costs(setting)
        for last in range(first + 1, len(setting.chain.layers) + 1):
            refused = replicas.refuses(range(first, last))
            yield None if refused else replicas.between(first, last)

    def build(self, site: Site) -> Coarse | None:
        """The copy."""
        segment = replica(site.setting.chain, site.setting.model, *site.span)
        return copy_of(self, site, segment, whole=True)
