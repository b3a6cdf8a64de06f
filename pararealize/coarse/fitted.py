"""Fitted: weights with which a few residuals of an interval come nearest to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pararealize.chain.repeated_blocks import RepeatedBlocks
from pararealize.coarse.depth_coarsening import Weights
from pararealize.coarse.intervals import IntervalKind, spread
from pararealize.cost.probe import Probe
from pararealize.errors import CoarseError


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
                _check(probe, run)
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


def _advance(probe: Probe, first: int, last: int, state: Any) -> Any:
    return state if first == last else probe.run(probe.layers(first, last), state)


def _check(probe: Probe, run: RepeatedBlocks) -> None:
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
