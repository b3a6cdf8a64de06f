"""Fitted: weights with which a few residuals of an interval come nearest to all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pararealize.chain.repeated_blocks import RepeatedBlocks
from pararealize.coarse.depth_coarsening import Taken
from pararealize.cost.probe import Probe
from pararealize.errors import CoarseError


@torch.no_grad()
def fitted(
    probe: Probe, runs: Sequence[RepeatedBlocks], first: int, stride: int, taken: Taken, state: Any
) -> dict[int, list[float]]:
    """Weights a_i that minimise ‖Φ(u) - u - Σ a_i φ_i(u)‖ over every interval of a piece.

    Φ are the interval's layers and u the state before it on the probe's trajectory, which begins
    with ``state`` before the layer ``first``. Weights are given by an interval's first layer.

    Raises:
        CoarseError: a block has several residual layers, or the state is no single tensor.

    """
    found: dict[int, list[float]] = {}
    at = first
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
                    found[begin] = _weights(probe, layers, taken, state, end)
                state = end
    return found


def _advance(probe: Probe, first: int, last: int, state: Any) -> Any:
    return state if first == last else probe.run(probe.layers(first, last), state)


def _weights(
    probe: Probe, layers: list[int], taken: Taken, state: Tensor, end: Tensor
) -> list[float]:
    indices = taken(len(layers))
    residuals = [_advance(probe, layers[i], layers[i] + 1, state) - state for i in indices]
    columns = torch.stack([r.flatten() for r in residuals], 1).double()
    solution = torch.linalg.lstsq(columns, (end - state).flatten().double()[:, None])
    return [float(a) for a in solution.solution[:, 0]]


def _check(probe: Probe, run: RepeatedBlocks) -> None:
    layers = probe.partition.chain.layers
    names = [layers[run.start + i].name for i in range(run.period)]
    if any(layers[run.start + i].span is not None for i in range(run.period)):
        raise CoarseError(
            f"no 'fitted' coarse propagator of steps in time ({', '.join(names)}), which span "
            "several by themselves: write MGRIT(coarse='rediscretized')."
        )
    if sum(layers[run.start + i].branch is not None for i in range(run.period)) > 1:
        raise CoarseError(
            f"no 'fitted' coarse propagator: a block ({', '.join(names)}) has several residual "
            "layers, whose weights would be fitted together: write MGRIT(coarse='sampled')."
        )
