"""Measure: seconds of every layer on the model's own device, instead of predictions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pararealize.ir.chain import Chain, Layer, Partition, Profile
from pararealize.passes.probe import Probe
from pararealize.runtime.clock import wait

REPEATS = 3


def measured(chain: Chain, model: nn.Module, inputs: Mapping[str, Any], seed: int) -> Chain:
    """The chain with every layer's ``cost.seconds`` measured: the median of a few evaluations.

    Layers run one after another on a copy of the model, without gradients; no statistics of the
    model move and the caller's random state is restored.
    """
    everything = Partition(chain, tuple(range(len(chain.layers) + 1)))
    probe = Probe(everything, model, dict(inputs), seed)
    layers = []
    state: Any = None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for j, layer in enumerate(chain.layers, start=1):
            fine = probe.fine(j)
            seconds = []
            for _ in range(REPEATS + 1):
                begin = time.perf_counter()
                result = probe.run(fine, state)
                _wait(model)
                seconds.append(time.perf_counter() - begin)
            state = result
            layers.append(
                replace(layer, cost=replace(layer.cost, seconds=statistics.median(seconds[1:])))
            )
    return replace(chain, layers=tuple(layers), profile=_scaled(chain, layers))


def _scaled(chain: Chain, layers: Sequence[Layer]) -> Profile:
    """Costs of operations, of which coarse networks are made, in the seconds of their layers."""
    costs = dict(chain.profile.costs)
    for i, layer in enumerate(layers):
        here = {o.name for o in chain.segment(i, i + 1, training=True).operations} & costs.keys()
        total = sum(costs[name].seconds for name in here)
        for name in here if total else ():
            seconds = costs[name].seconds * layer.cost.seconds / total
            costs[name] = replace(costs[name], seconds=seconds)
    return replace(chain.profile, costs=costs)


def _wait(model: nn.Module) -> None:
    parameter = next(model.parameters(), None)
    if parameter is not None:
        wait(parameter.device)
