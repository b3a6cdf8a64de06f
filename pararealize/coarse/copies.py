"""Copies: the subnetwork itself, and networks of its own layers that start from their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
from pararealize.coarse.depth_coarsening import IntervalCosts
from pararealize.coarse.intervals import Rediscretized
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.pruning import (
    Pruning,
    Selection,
    prune,
    selected_costs,
    without_dead_code,
    without_dropout,
)
from pararealize.coarse.setting import LayerCosts, Setting, Site, can_copy
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.program import Segment
from pararealize.propagators.fresh import Fresh

#: What thinned copies keep of each layer.
THIN = Pruning(normalisation=True, whole=True)


def replica(chain: Chain, model: nn.Module, first: int, last: int) -> Segment:
    """The piece ``first`` … ``last - 1`` to run with weights of its own, without dropout."""
    segment = without_dead_code(chain.segment(first, last, training=True))
    return without_dropout(chain, model, segment)


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
class Exact(CoarseKind):
    """The subnetwork itself: the exact case."""

    name = "fine"
    takes_tuples = True

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of the layers themselves."""
        for last in range(first + 1, len(setting.chain.layers) + 1):
            yield setting.fine.between(first, last)

    def build(self, site: Site) -> Coarse | None:
        """The subnetwork's fine propagator, which is there."""
        return self.coarse(site.fine)


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


@final
@dataclass(frozen=True)
class Thinned(CoarseKind):
    """The layers that change the shape, and the first ``depth`` repeated blocks, as they are."""

    name = "thinned"
    heeds = ("coarse_depth",)
    owns_weights = True
    candidates = ({"depth": 1}, {"depth": 2})
    substitutes = ({"depth": 1},)
    depth: int = 1

    @property
    def instead(self) -> tuple[CoarseKind, ...]:
        """All of it, where there is none to leave out."""
        return (Whole(),)

    def __str__(self) -> str:
        return f"{self.name} {self.depth}"

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of the layers kept; ``None`` where that is all."""
        for selection, cost in selected_costs(setting, first, THIN):
            last = selection.stop
            count = self._repeated(setting.chain, first, last)
            yield thinner(setting, first, last, cost(count))

    def build(self, site: Site) -> Coarse | None:
        """The copy, or ``None`` where it would be whole."""
        chain = site.setting.chain
        selection = Selection(chain, *site.span)
        kept = THIN.kept(selection, self._repeated(chain, *site.span))
        segment = prune(chain, site.setting.model, *site.span, kept, THIN)
        return copy_of(self, site, segment, whole=False)

    def _repeated(self, chain: Chain, first: int, last: int) -> int:
        """Repeated layers with weights in so many blocks."""
        runs = repeated_blocks(chain, first, last)
        return self.depth * max((run.weighted(chain) for run in runs), default=1)


@final
@dataclass(frozen=True)
class Stepped(CoarseKind):
    """``depth`` blocks from all of the longest run of residual ones, with steps as much longer."""

    name = "stepped"
    heeds = ("coarse_depth",)
    owns_weights = True
    candidates = ({"depth": 1}, {"depth": 3})
    depth: int = 1

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
        most = max((run.blocks for run in runs), default=1)
        return -(-most // max(self.depth, 1))
