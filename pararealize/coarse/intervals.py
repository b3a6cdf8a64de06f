"""Intervals: kinds of coarse propagators in which one layer stands for several residual ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, final

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
from pararealize.coarse.depth_coarsening import IntervalCosts, Weights, coarsened
from pararealize.coarse.fitted import fitted
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.pruning import without_dead_code
from pararealize.coarse.setting import Setting, Site
from pararealize.cost.probe import Probe
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import MGRIT, Method
from pararealize.ir.program import Segment


class IntervalKind(CoarseKind):
    """One layer for each interval of m residual layers x + φ_i(x), with the network's weights.

    A subnetwork has one interval in each of its runs of them, multigrid's levels have shorter ones.
    A step in time spans the interval's, whatever is asked; other layers stay as they are.

    Attributes:
        averages: whether weights are the means of the interval's.
        fits: whether it is fitted to a probe, and so not one of those that multigrid chooses among
            by their measured errors.

    """

    methods: ClassVar[tuple[str, ...]] = ("Parareal", "MGRIT")
    averages: ClassVar[bool] = False
    fits: ClassVar[bool] = False

    @abstractmethod
    def taken(self, count: int) -> Sequence[int]:
        """Which of an interval's layers are evaluated, side by side; none for the identity."""

    def weights(
        self, probe: Probe, runs: Sequence[RepeatedBlocks], first: int, stride: int, state: Any
    ) -> Weights:
        """Factors of the residuals that are no m/s; for a ``state`` before the layer ``first``."""
        del probe, runs, first, stride, state
        return {}

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs with one interval in each run; ``None`` where nothing repeats."""
        costs = self.interval_costs(setting)
        for last in range(first + 1, len(setting.chain.layers) + 1):
            runs = repeated_blocks(setting.chain, first, last)
            yield costs.between(first, last, runs, last - first) if runs else None

    def level_costs(self, setting: Setting, first: int, stride: int) -> Iterator[Cost]:
        """Costs on a level of multigrid that strides inside the layers."""
        costs = self.interval_costs(setting)
        for last in range(first + 1, len(setting.chain.layers) + 1):
            runs = repeated_blocks(setting.chain, first, last)
            yield costs.between(first, last, runs, stride)

    def interval_costs(self, setting: Setting) -> IntervalCosts:
        """Costs of its intervals."""
        layers = setting.rewritten("alive", lambda i: without_dead_code(setting.bodies[i]))
        return setting.once(self, lambda: IntervalCosts(setting, layers, self.taken))

    def build(self, site: Site) -> Coarse | None:
        """The layers with one interval in each run; ``None`` where nothing repeats."""
        chain, stride = site.setting.chain, site.last - site.first
        segment, averages = self.coarsened(chain, *site.span, stride)
        return None if segment is None else self.borrowed(chain, segment, averages)

    def coarsened(
        self, chain: Chain, first: int, last: int, stride: int, weights: Weights | None = None
    ) -> tuple[Segment | None, Mapping[str, tuple[str, ...]]]:
        """The layers with intervals of ``stride`` blocks, and what means are taken of."""
        return coarsened(
            chain, first, last, stride, self.taken, averages=self.averages, weights=weights
        )

    def borrowed(
        self, chain: Chain, segment: Segment, averages: Mapping[str, tuple[str, ...]]
    ) -> Coarse:
        """A propagator of this kind with the network's weights."""
        cost = chain.profile.cost(segment.operations)
        return self.coarse(cost, segment=segment, inputs=segment.inputs, averages=averages)

    def reason(self, site: Site) -> str:
        """Where nothing repeats, that."""
        if repeated_blocks(site.setting.chain, *site.span):
            return super().reason(site)
        return "it has no two neighbouring residual layers x + φ(x) of equal shape"


@final
@dataclass(frozen=True)
class Rediscretized(IntervalKind):
    """x + m φ_1(x)."""

    name = "rediscretized"

    @classmethod
    def candidates(cls) -> tuple[CoarseKind, ...]:
        """It."""
        return (cls(),)

    def taken(self, count: int) -> Sequence[int]:
        """The first."""
        return range(count)[:1]


@final
@dataclass(frozen=True)
class Mean(IntervalKind):
    """x + m φ(x) with the mean of the weights."""

    name = "mean"
    averages = True

    @classmethod
    def candidates(cls) -> tuple[CoarseKind, ...]:
        """It."""
        return (cls(),)

    def taken(self, count: int) -> Sequence[int]:
        """The first, with other weights."""
        return range(count)[:1]


@final
@dataclass(frozen=True)
class Sampled(IntervalKind):
    """x + m/s Σ φ_i(x), s of them, side by side."""

    name = "sampled"
    samples: int = 2

    @classmethod
    def of(cls, method: Method, j: int | None = None) -> Self:
        """With as many samples as multigrid is told to take."""
        del j
        return cls(method.samples) if isinstance(method, MGRIT) else cls()

    @classmethod
    def candidates(cls) -> tuple[CoarseKind, ...]:
        """With two samples."""
        return (cls(),)

    def taken(self, count: int) -> Sequence[int]:
        """Those in the middle of equal parts, or all."""
        return _spread(count, self.samples)


@final
@dataclass(frozen=True)
class Summed(IntervalKind):
    """x + Σ φ_i(x)."""

    name = "summed"

    def taken(self, count: int) -> Sequence[int]:
        """All."""
        return range(count)


@final
@dataclass(frozen=True)
class Fitted(IntervalKind):
    """x + Σ a_i φ_i(x), s of them, with weights that fit the interval on a probe."""

    name = "fitted"
    methods = ("MGRIT",)
    fits = True
    samples: int = 2

    @classmethod
    def of(cls, method: Method, j: int | None = None) -> Self:
        """With as many samples as multigrid is told to take."""
        del j
        return cls(method.samples) if isinstance(method, MGRIT) else cls()

    def taken(self, count: int) -> Sequence[int]:
        """Those in the middle of equal parts, or all."""
        return _spread(count, self.samples)

    def weights(
        self, probe: Probe, runs: Sequence[RepeatedBlocks], first: int, stride: int, state: Any
    ) -> Weights:
        """Least squares on the probe's trajectory.

        Raises:
            CoarseError: a block has several residual layers, or the state is no single tensor.

        """
        return fitted(probe, runs, first, stride, self.taken, state)


def _spread(count: int, samples: int) -> Sequence[int]:
    if samples >= count:
        return range(count)
    return [(2 * i + 1) * count // (2 * samples) for i in range(samples)]
