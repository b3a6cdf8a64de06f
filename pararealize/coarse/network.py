"""Network: fresh networks, of own kinds of layers, generic, or from a function of the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from torch import nn

from pararealize.coarse.generic import EXACT, generic_kind
from pararealize.coarse.intervals import Identity, Rediscretized
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.narrow import narrow_cost, narrow_costs, narrow_ranks
from pararealize.coarse.pruning import (
    Order,
    Pruning,
    Selection,
    prune,
    pruned_costs,
    selected_costs,
)
from pararealize.coarse.setting import LayerCosts, Setting, Site, can_copy, like
from pararealize.cost.profile import module_cost
from pararealize.errors import CoarseError
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.options import CoarseFactory
from pararealize.ir.program import Segment
from pararealize.propagators.fresh import Fresh

#: What equal costs may differ by that were summed in another order.
ROUNDING = 1e-9

#: Own layers that cost no more than this share of a subnetwork stay whole.
SMALL = 0.05

#: A sweep must at least halve an error for a coarse propagator without weights to be chosen.
CONTRACTS = 0.5


@final
@dataclass(frozen=True)
class OwnLayers(CoarseKind):
    """The layers that change the shape, and of the others as many as make ``depth`` with them.

    Where differences of two states' images correct, batch normalisation is left out unless
    ``by_batch``: in train mode it takes the mean of each state away by itself, in eval mode one
    running mean of both, so that what was learnt is not what answers. Plans that say nothing of it
    are of a version that kept it. Wide layers that stand alone have a share ``narrow`` of their
    largest rank, 1 for whole ones, and of the repeated layers the ``quickest`` are kept, as those
    behind a pooling, the ``cheapest`` by operations, or the first: plans that say nothing of it
    have the first, whole.
    """

    name = "own layers"
    methods = ()
    keeps_zero = True
    advice = EXACT
    substitutes = ({"by_batch": False},)
    depth: int = 1
    by_batch: bool = True
    narrow: float = 1.0
    cheapest: bool = False
    quickest: bool = False

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of the layers kept."""
        last, how = first, self._pruning(setting)
        for selection, cost in selected_costs(setting, first, how, costs=self._layers(setting)):
            last += 1
            found = cost(self._repeated(selection))
            if found is not None and not found.flops:
                source, target = setting.states(first, last)
                found = None if source == target else found
            yield found

    def cost(self, site: Site) -> Cost | None:
        """Cost of what is built."""
        found = self._kept(site)
        return None if found is None else found[1]

    def build(self, site: Site) -> Coarse | None:
        """The layers with fresh weights, without biases where jumps are corrected."""
        if (found := self._kept(site)) is None:
            return None
        segment, cost = found
        bias, ranks = site.setting.difference, narrow_ranks(site.setting, self.narrow)
        module = Fresh(site.setting.model, segment, bias=bias, ranks=ranks)
        module.guarded = site.setting.chain.infinite
        return self.network(site, cost, module, segment.inputs)

    def _kept(self, site: Site) -> tuple[Segment, Cost] | None:
        """The operations kept and their cost, or ``None`` where that is no network."""
        setting, how = site.setting, self._pruning(site.setting)
        selection = how.selection(setting, *site.span)
        kept = how.kept(selection, self._repeated(selection))
        segment = prune(setting.chain, setting.model, *site.span, kept, how)
        if not can_copy(segment, masks=False):
            return None
        cost = narrow_cost(setting, segment.operations, narrow_ranks(setting, self.narrow))
        source, target = site.states
        if source == target and not cost.flops:
            return None  # an activation alone is a worse guess at the piece than the identity
        return segment, cost

    def _layers(self, setting: Setting) -> LayerCosts:
        how, ranks = self._pruning(setting), narrow_ranks(setting, self.narrow)
        whole = pruned_costs(setting, how)
        if not ranks:
            return whole
        return setting.once((self, how), lambda: narrow_costs(setting, whole, ranks))

    def _pruning(self, setting: Setting) -> Pruning:
        order: Order = "seconds" if self.quickest else "flops" if self.cheapest else "first"
        return Pruning(setting.difference, by_batch=self.by_batch, order=order)

    def _repeated(self, selection: Selection) -> int:
        return max(0, self.depth - selection.changing)


@final
@dataclass(frozen=True)
class Network(CoarseKind):
    """Own layers where they cost no more than a share ``budget`` of the subnetwork, or generic.

    Where they cost more than a small share, wide ones that stand alone have a share ``rank`` of
    their largest rank. Above the budget it is the cheaper of those and the generic one.
    """

    name = "network"
    heeds = ("coarse_depth", "coarse_budget", "coarse_rank")
    takes_tuples = True
    owns_weights = True
    keeps_zero = True
    advice = EXACT
    depth: int = 1
    budget: float = 0.75
    rank: float = 1.0

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of the choice."""
        for last, (whole, narrow) in enumerate(self._own_costs(setting, first), start=first + 1):
            fine = setting.fine.seconds(first, last)
            if self._is_dear(whole, fine):
                generic = generic_kind(setting, first, last).between(setting, first, last)
                options = [cost for cost in (narrow, generic) if cost is not None]
                yield min(options, key=lambda cost: cost.seconds, default=None)
            else:
                yield whole if _is_small(whole, fine) else narrow

    def build(self, site: Site) -> Coarse | None:
        """The choice."""
        kind, dear = self._own_layers(site)
        own = kind.build(site)
        if own is not None and not dear:
            return own
        generic = generic_kind(site.setting, *site.span).build(site)
        options = [c for c in (own, generic) if c is not None]
        return min(options, key=lambda c: c.cost.seconds, default=None)

    def _own_costs(self, setting: Setting, first: int) -> Iterator[tuple[Cost | None, Cost | None]]:
        """Costs of own layers, whole and narrow."""
        whole = self._whole.costs(setting, first)
        if not narrow_ranks(setting, self.rank):
            return ((cost, cost) for cost in whole)
        return zip(whole, self._narrow.costs(setting, first), strict=True)

    def _own_layers(self, site: Site) -> tuple[OwnLayers, bool]:
        """Own layers, narrow where that is cheaper and matters, and whether whole are too dear."""
        whole, fine = self._whole.cost(site), site.fine.seconds
        dear = self._is_dear(whole, fine)
        small = _is_small(whole, fine) and not dear
        if small or not narrow_ranks(site.setting, self.rank):
            return self._whole, dear
        return (self._whole if self._narrow.cost(site) == whole else self._narrow), dear

    def _is_dear(self, own: Cost | None, fine: float) -> bool:
        return own is None or own.seconds > _share(self.budget, fine)

    @property
    def _whole(self) -> OwnLayers:
        return OwnLayers(self.depth, by_batch=False, quickest=True)

    @property
    def _narrow(self) -> OwnLayers:
        return replace(self._whole, narrow=self.rank)


def _is_small(own: Cost | None, fine: float) -> bool:
    return own is not None and own.seconds <= _share(SMALL, fine)


def _share(share: float, fine: float) -> float:
    """A share of a subnetwork's seconds, as sums of them may come out."""
    return share * fine * (1 + ROUNDING)


@final
@dataclass(frozen=True)
class Auto(CoarseKind):
    """Identity or rediscretized where a probe says that they contract, else a fresh network.

    Multigrid chooses among intervals by their errors, and calibration among all candidates.
    """

    name = "auto"
    methods = ("Parareal", "MGRIT")
    heeds = ("coarse_depth", "coarse_budget", "coarse_rank")
    takes_tuples = True
    keeps_zero = True
    depth: int = 1
    budget: float = 0.75
    rank: float = 1.0

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs of networks: what contracts is known of built propagators only."""
        return Network(self.depth, self.budget, self.rank).costs(setting, first)

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
        network = Network(self.depth, self.budget, self.rank)
        if (found := network.build(site)) is None:
            raise network.refusal(site)
        return found


@final
@dataclass(frozen=True)
class Custom(CoarseKind):
    """What ``factory`` makes of a subnetwork and the states' specs before and after it."""

    name = "custom"
    methods = ()
    keeps_zero = True
    factory: CoarseFactory

    @property
    def options(self) -> Mapping[str, Any]:
        """None that could be saved."""
        return {}

    def __str__(self) -> str:
        return str(getattr(self.factory, "__name__", "coarse"))

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Nothing: what they will be is not known before."""
        for _ in setting.chain.layers[first:]:
            yield Cost()

    def build(self, site: Site) -> Coarse | None:
        """The user's own network.

        Raises:
            CoarseError: it is no module, or makes another shape.

        """
        assert site.probe is not None
        source, target = site.states
        specs = [s[0] if len(s) == 1 else s for s in (source, target)]
        module = self.factory(site.probe.fine(site.number), *specs)
        if not isinstance(module, nn.Module):
            raise CoarseError(
                f"{self}(fine, interface_in, interface_out) must return a torch.nn.Module, and "
                f"returned a {type(module).__name__} for {site.title}."
            )
        module = like(module, site.setting.model)
        found = site.probe.shapes(module, source)
        if found != [spec.shape for spec in target]:
            raise CoarseError(
                f"the coarse network {self} made for {site.title} maps "
                f"{[list(s.shape) for s in source]} to {[list(s) for s in found]}, and the "
                f"interface after it has {[list(s.shape) for s in target]}: make its output "
                "that shape."
            )
        return self.network(site, module_cost(module, source, site.setting.machine), module)
