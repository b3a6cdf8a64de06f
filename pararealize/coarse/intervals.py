"""Intervals: kinds of coarse propagators in which one layer stands for several residual ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from pararealize.chain.repeated_blocks import RepeatedBlocks, repeated_blocks
from pararealize.coarse.depth_coarsening import IntervalCosts, IntervalWriter, Weights
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.pruning import without_dead_code
from pararealize.coarse.setting import Setting, Site
from pararealize.cost.probe import Probe
from pararealize.errors import CoarseError
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.program import Segment
from pararealize.propagators.parameter_free import has_identity, identity


class IntervalKind(CoarseKind):
    """One layer for each interval of m residual layers x + φ_i(x), with the network's weights.

    A subnetwork has one interval in each of its runs of them, multigrid's levels have shorter ones.
    A step in time spans the interval's, whatever is asked; other layers stay as they are. Weights
    are the means of the interval's where it ``averages``. One that ``fits`` a probe is none of
    those that multigrid chooses among by their measured errors.
    """

    methods: ClassVar[tuple[str, ...]] = ("Parareal", "MGRIT")
    averages: ClassVar[bool] = False
    fits: ClassVar[bool] = False

    @abstractmethod
    def taken(self, count: int) -> Sequence[int]:
        """Which of an interval's layers are evaluated, side by side; none for the identity."""

    def weights(
        self, probe: Probe, runs: Sequence[RepeatedBlocks], boundary: int, stride: int
    ) -> Weights:
        """Factors of the residuals that are no m/s, in runs that follow a slice boundary."""
        del probe, runs, boundary, stride
        return {}

    def check_weights(self, runs: Sequence[RepeatedBlocks], stride: int, weights: Weights) -> None:
        """Raise where weights are not those of the runs' intervals.

        Raises:
            CoarseError: says which layers they are for.

        """
        intervals = [blocks for run in runs for blocks in run.intervals(stride)]
        wanted = {b[0][0]: len(self.taken(len(b))) for b in intervals if self.fits and len(b) > 1}
        found = {first: len(row) for first, row in weights.items()}
        if found != wanted:
            raise CoarseError(
                f"{self.name!r} coarse propagators take weights of the layers {sorted(wanted)}, "
                f"{sorted(set(wanted.values()))} each, and found {sorted(found)} with "
                f"{sorted(set(found.values()))}."
            )

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Costs with one interval in each run; ``None`` where nothing repeats."""
        costs = self._interval_costs(setting)
        for last in range(first + 1, len(setting.chain.layers) + 1):
            runs = repeated_blocks(setting.chain, first, last)
            yield costs.between(first, last, runs, last - first) if runs else None

    def level_costs(self, setting: Setting, first: int, stride: int) -> Iterator[Cost]:
        """Costs on a level of multigrid that strides inside the layers."""
        costs = self._interval_costs(setting)
        for last in range(first + 1, len(setting.chain.layers) + 1):
            runs = repeated_blocks(setting.chain, first, last)
            yield costs.between(first, last, runs, stride)

    def _interval_costs(self, setting: Setting) -> IntervalCosts:
        layers = setting.rewritten("alive", lambda i: without_dead_code(setting.segments[i]))
        return setting.once(self, lambda: IntervalCosts(setting, layers, self.taken))

    def build(self, site: Site) -> Coarse | None:
        """The layers with one interval in each run; ``None`` where nothing repeats."""
        chain, stride = site.setting.chain, site.last - site.first
        segment, averages = self.coarsened(chain, *site.span, stride)
        return None if segment is None else self.borrowed(chain, segment, averages)

    def coarsened(
        self, chain: Chain, first: int, last: int, stride: int, weights: Weights | None = None
    ) -> tuple[Segment | None, Mapping[str, tuple[str, ...]]]:
        """The layers ``first`` … ``last - 1`` with one layer for each ``stride`` blocks of a run.

        ``None`` where nothing repeats. Beside it stand, for the modules and attributes of layers
        with mean weights, those that the mean is taken of.
        """
        runs = repeated_blocks(chain, first, last)
        if not runs:
            return None, {}
        writer = IntervalWriter(chain, self.taken, self.averages, weights or {})
        return writer.segment(first, last, runs, stride), writer.averages

    def borrowed(
        self, chain: Chain, segment: Segment, averages: Mapping[str, tuple[str, ...]]
    ) -> Coarse:
        """A propagator of this kind with the network's weights."""
        cost = chain.profile.cost(segment.operations)
        return self.coarse(cost, segment=segment, inputs=segment.inputs, averages=averages)

    def reason(self, site: Site) -> str:
        """Why there is none: nothing repeats, or no identity between the states is known."""
        if not self.taken(2) or repeated_blocks(site.setting.chain, *site.span):
            return super().reason(site)
        return "it has no two neighbouring residual layers x + φ(x) of equal shape"


@final
@dataclass(frozen=True)
class Identity(IntervalKind):
    """x, pooled, cut off or padded where the shape changes; on multigrid's levels, x itself."""

    name = "identity"
    keeps_zero = True
    candidates = ({},)

    def taken(self, count: int) -> Sequence[int]:
        """No layer."""
        return range(count)[:0]

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Nothing; ``None`` where shapes are too different."""
        for last in range(first + 1, len(setting.chain.layers) + 1):
            states, passed = setting.states(first, last), setting.passed(first, last)
            yield Cost() if has_identity(*states, passed) else None

    def build(self, site: Site) -> Coarse | None:
        """The map without parameters between the states' shapes."""
        module = identity(*site.states, site.setting.passed(*site.span))
        return None if module is None else self.network(site, Cost(), module)


@final
@dataclass(frozen=True)
class Rediscretized(IntervalKind):
    """x + m φ_1(x)."""

    name = "rediscretized"
    candidates = ({},)

    def taken(self, count: int) -> Sequence[int]:
        """The first layer."""
        return range(count)[:1]


@final
@dataclass(frozen=True)
class Mean(IntervalKind):
    """x + m φ(x) with the mean of the weights."""

    name = "mean"
    averages = True
    candidates = ({},)

    def taken(self, count: int) -> Sequence[int]:
        """The first layer, with other weights."""
        return range(count)[:1]


@final
@dataclass(frozen=True)
class Sampled(IntervalKind):
    """x + m/s Σ φ_i(x), s of them, side by side; as many as multigrid is told to take."""

    name = "sampled"
    candidates = ({},)
    samples: int = 2

    def taken(self, count: int) -> Sequence[int]:
        """The layers in the middle of equal parts, or all."""
        return spread(count, self.samples)


@final
@dataclass(frozen=True)
class Summed(IntervalKind):
    """x + Σ φ_i(x)."""

    name = "summed"

    def taken(self, count: int) -> Sequence[int]:
        """All layers."""
        return range(count)


@final
@dataclass(frozen=True)
class Fitted(IntervalKind):
    """x + Σ a_i φ_i(x), s of them, with weights that fit the interval on a probe."""

    name = "fitted"
    methods = ("MGRIT",)
    fits = True
    samples: int = 2

    def taken(self, count: int) -> Sequence[int]:
        """The layers in the middle of equal parts, or all."""
        return spread(count, self.samples)

    @torch.no_grad()
    def weights(
        self, probe: Probe, runs: Sequence[RepeatedBlocks], boundary: int, stride: int
    ) -> Weights:
        """Weights a_i that minimise ‖Φ(u) - u - Σ a_i φ_i(u)‖ over every interval of the runs.

        Φ are the interval's layers and u the state before it on the probe's trajectory from a slice
        boundary. Weights are given by an interval's first layer.

        Raises:
            CoarseError: a block has several residual layers, or steps in time.

        """
        found: dict[int, list[float]] = {}
        at, state = probe.partition.bounds[boundary], probe.trajectory[boundary]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(probe.seed)
            for run in runs:
                _check_fittable(probe, run)
                state = _advance(probe, at, run.start, state)
                for blocks in run.intervals(stride):
                    layers = [block[0] for block in blocks]
                    begin, at = layers[0], blocks[-1][-1] + 1
                    end = _advance(probe, begin, at, state)
                    if len(layers) > 1:
                        found[begin] = self._solution(probe, layers, state, end)
                    state = end
        return found

    def _solution(self, probe: Probe, layers: list[int], state: Tensor, end: Tensor) -> list[float]:
        indices = self.taken(len(layers))
        residuals = [_advance(probe, layers[i], layers[i] + 1, state) - state for i in indices]
        columns = torch.stack([r.flatten() for r in residuals], 1).double()
        solution = torch.linalg.lstsq(columns, (end - state).flatten().double()[:, None])
        return [float(a) for a in solution.solution[:, 0]]


def spread(count: int, samples: int) -> Sequence[int]:
    """Which of so many layers lie in the middle of ``samples`` equal parts; or all of them."""
    if samples >= count:
        return range(count)
    return [(2 * i + 1) * count // (2 * samples) for i in range(samples)]


def _advance(probe: Probe, first: int, last: int, state: Any) -> Any:
    return state if first == last else probe.run(probe.layers(first, last), state)


def _check_fittable(probe: Probe, run: RepeatedBlocks) -> None:
    """Raise where a block's residual layers cannot be fitted one by one."""
    block = probe.partition.chain.layers[run.start : run.start + run.period]
    names = ", ".join(layer.name for layer in block)
    if any(layer.span is not None for layer in block):
        raise CoarseError(
            f"no 'fitted' coarse propagator of steps in time ({names}), which span "
            "several by themselves: write MGRIT(coarse='rediscretized')."
        )
    if sum(layer.branch is not None for layer in block) > 1:
        raise CoarseError(
            f"no 'fitted' coarse propagator: a block ({names}) has several residual "
            "layers, whose weights would be fitted together: write MGRIT(coarse='sampled')."
        )
