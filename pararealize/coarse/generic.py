"""Generic: fresh networks from one state's shapes to another's, whatever the layers are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.layout import is_series
from pararealize.coarse.setting import Setting, Site, like
from pararealize.ir.chain import Cost, State, TensorSpec
from pararealize.ir.decisions import Coarse
from pararealize.propagators.generic import generic_coarse, guard
from pararealize.propagators.leafwise import LeafMaps

#: What to write where no network is known.
EXACT = "coarse='fine', correction='difference'"


@dataclass(frozen=True)
class ShapeKind(CoarseKind):
    """Networks that know the states' shapes, and whether they are ``series``.

    With ``reads_all`` every tensor of a state is read by one; without, as in folders that were
    saved before there was a choice, as many as the state behind has.
    """

    methods: ClassVar[tuple[str, ...]] = ()
    keeps_zero: ClassVar[bool] = True
    advice: ClassVar[str] = EXACT
    series: ClassVar[bool] = False

    reads_all: bool = False

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs by the states' shapes."""
        for last in range(first + 1, len(setting.chain.layers) + 1):
            yield self.between(setting, first, last)

    def between(self, setting: Setting, first: int, last: int) -> Cost | None:
        """Cost of a network from one state's shapes to another's, but for leaves that pass."""
        if self.series and not between_series(setting, first, last):
            return None
        (source, target), passed = setting.states(first, last), setting.passed(first, last)
        return setting.once(
            (self, source, target, passed), lambda: self._price(setting, source, target, passed)
        )

    def _price(
        self, setting: Setting, source: State, target: State, passed: tuple[int | None, ...]
    ) -> Cost | None:
        """The sum of the costs of maps between leaves, each of which is built and priced once."""

        def priced(one: TensorSpec, other: TensorSpec) -> Cost | None:
            return setting.once(
                (self, one, other),
                lambda: setting.price(
                    lambda: (self._module(setting, (one,), (other,), (None,)), (one,))
                ),
            )

        if not source or not target:
            return None
        alone = setting.machine.cost(0.0, 0.0, launches=1)
        maps = LeafMaps(priced, lambda: alone, lambda _source, _target: alone)
        pairs = maps.between(source, target, passed, reads_all=self.reads_all)
        return None if pairs is None else sum((cost for *_, cost in pairs), Cost())

    def build(self, site: Site) -> Coarse | None:
        """The network with fresh weights, without biases where jumps are corrected."""
        setting, (source, target) = site.setting, site.states
        if self.series and not between_series(setting, *site.span):
            return None
        module = self._module(setting, source, target, setting.passed(*site.span))
        if module is None:
            return None
        module = like(module, setting.model)
        if setting.chain.infinite:
            guard(module)
        cost = self.between(setting, *site.span)
        assert cost is not None  # as there is the module
        return self.network(site, cost, module)

    def _module(
        self, setting: Setting, source: State, target: State, passed: tuple[int | None, ...]
    ) -> nn.Module | None:
        how = {"bias": setting.difference, "series": self.series, "reads_all": self.reads_all}
        return generic_coarse(source, target, passed=passed, **how)


@final
@dataclass(frozen=True)
class Generic(ShapeKind):
    """Pooling and small convolutions, or low-rank linear maps."""

    name = "generic"
    candidates = substitutes = ({"reads_all": True},)


@final
@dataclass(frozen=True)
class Positions(ShapeKind):
    """The same, but of ``[batch, channels, positions]`` no position is made of later ones."""

    name = "positions"
    series = True


def between_series(setting: Setting, first: int, last: int) -> bool:
    """Whether the states before and after the layers ``first`` … ``last - 1`` are series."""
    before, after = setting.states(first, last)
    return is_series(setting, before, first) and is_series(setting, after, last)


def generic_kind(setting: Setting, first: int, last: int) -> ShapeKind:
    """What is built of the layers ``first`` … ``last - 1`` from their states' shapes."""
    kind = Positions if between_series(setting, first, last) else Generic
    return kind(reads_all=True)
