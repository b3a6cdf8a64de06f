"""Measure: seconds of functions in turns, and of every layer on the model's own device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from statistics import median
from typing import Any

import torch
from torch import nn

from pararealize.cost.captured import REPEATS as IN_A_ROW
from pararealize.cost.captured import capturing, recorded
from pararealize.cost.probe import Probe
from pararealize.ir.chain import Chain, Layer, Partition, Profile
from pararealize.propagators.fine import Fine
from pararealize.runtime.capture.device import Device
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.values.pytree import device_of


def wait(device: torch.device) -> None:
    """Wait until a device has done what was asked of it."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def turns(
    *functions: Callable[[], object],
    runs: int,
    before: Callable[[], object] = lambda: None,
    enough: float = inf,
) -> list[list[float]]:
    """Seconds of so many runs of every function, which take turns, each once more to warm up.

    Every round begins with another one, so that none always runs behind the same one's memory.
    What is done ``before`` every run is not timed: waiting for a device, or for other ranks. Once
    they have taken ``enough`` seconds in all, no further run follows the first.
    """
    times: list[list[float]] = [[] for _ in functions]
    for number in range(runs + 1):
        if number > 1 and sum(map(sum, times)) > enough:
            break
        for turn in range(len(functions)):
            which = (number + turn) % len(functions)
            before()
            begin = time.perf_counter()
            functions[which]()
            times[which].append(time.perf_counter() - begin)
    return [found[1:] for found in times]


def medians(
    *functions: Callable[[], object],
    runs: int,
    before: Callable[[], object] = lambda: None,
    enough: float = inf,
) -> list[float]:
    """Median seconds of every function, in :func:`turns`."""
    return [median(found) for found in turns(*functions, runs=runs, before=before, enough=enough)]


def captured_seconds(
    calls: Sequence[Callable[[], Any]], device: Device, *, runs: int
) -> list[float]:
    """Median seconds of calls in graphs, each by itself on one stream, without gradients.

    Raises:
        MethodError: a graph is being recorded already.

    Warns:
        CaptureWarning: a call cannot be recorded; it is timed as Python makes it.

    """
    with torch.no_grad():
        return [medians(recorded(call, device), runs=runs)[0] / IN_A_ROW for call in calls]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


#: Rounds of which the lower quartile is taken.
REPEATS = 5


def low(seconds: Sequence[float]) -> float:
    """The lower quartile: what else a machine does makes runs longer, never shorter."""
    return sorted(seconds)[len(seconds) // 4]


def measured(
    chain: Chain,
    model: nn.Module,
    inputs: Mapping[str, Any],
    seed: int,
    device: Device | None = None,
) -> Chain:
    """The chain with every layer's ``cost.seconds`` measured: the lower quartile of evaluations.

    All layers run in a row, again and again, each time the whole network beside them: where the
    machine becomes slower meanwhile, it does so for all of them alike. Layers by themselves take
    a call each, which they do not inside a subnetwork: together they take what the whole does.
    They run on a copy of the model, without gradients; no statistics of the
    model move and the caller's random state is restored. With a ``device`` that records graphs
    every kind of layer is timed in a graph of its own.
    """
    everything = Partition(chain, tuple(range(len(chain.layers) + 1)))
    probe = Probe(everything, model, dict(inputs), seed)
    if device is not None:
        return _with_seconds(chain, _in_graphs(chain, probe, seed, device))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fine = [probe.fine(j) for j in range(1, len(chain.layers) + 1)]
        whole = [probe.layers(0, len(chain.layers))]
        rounds = [(_round(probe, fine), _round(probe, whole)) for _ in range(REPEATS + 1)]
    each = [low(seconds) for seconds in zip(*(parts for parts, _ in rounds[1:]), strict=True)]
    share = min(1.0, low([seconds[0] for _, seconds in rounds[1:]]) / sum(each))
    return _with_seconds(chain, [share * seconds for seconds in each])


def _with_seconds(chain: Chain, each: Sequence[float]) -> Chain:
    """The chain whose layers take so many seconds."""
    layers = [
        replace(layer, cost=layer.cost._replace(seconds=seconds))
        for layer, seconds in zip(chain.layers, each, strict=True)
    ]
    return replace(chain, layers=tuple(layers), profile=_scaled(chain, layers))


def _in_graphs(chain: Chain, probe: Probe, seed: int, device: Device) -> list[float]:
    """Seconds of every layer, in a graph; layers of one kind and state are timed once."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known: dict[Any, float] = {}
        state: Any = None
        each = []
        for i, layer in enumerate(chain.layers):
            key = layer.signature, chain.interfaces[i - 1].state if i else ()
            fine = probe.fine(i + 1)
            if key not in known:
                call = partial(probe.run, fine, state)
                known[key] = captured_seconds([call], device, runs=REPEATS)[0]
            state = probe.run(fine, state)
            each.append(known[key])
    return each


def with_measured_costs(
    chain: Chain,
    model: nn.Module,
    inputs: Mapping[str, Any],
    transport: Transport | None = None,
    *,
    seed: int = 0,
    shared: bool = False,
) -> Chain:
    """The chain with seconds that rank 0 measured while the others wait, so that all cut alike.

    Where subnetworks are to have ``shared`` one device, of layers in graphs, if it records them.
    """
    if transport is None or transport.rank == 0:
        device = capturing(device_of(model)) if shared else None
        chain = measured(chain, model, inputs, seed, device)
    return with_one_cost(chain, transport)


def with_one_cost(chain: Chain, transport: Transport | None) -> Chain:
    """The chain with the costs that rank 0 measured, so that all ranks cut alike."""
    if transport is None:
        return chain
    layers, costs = transport.exchange((chain.layers, dict(chain.profile.costs)))[0]
    return replace(chain, layers=layers, profile=replace(chain.profile, costs=costs))


def _round(probe: Probe, fine: Sequence[Fine]) -> list[float]:
    """Seconds of every layer, run once."""
    device = device_of(probe.model)
    state: Any = None
    seconds = []
    for layer in fine:
        begin = time.perf_counter()
        state = probe.run(layer, state)
        wait(device)
        seconds.append(time.perf_counter() - begin)
    return seconds


def _scaled(chain: Chain, layers: Sequence[Layer]) -> Profile:
    """Costs of operations, of which coarse networks are made, in the seconds of their layers."""
    costs = dict(chain.profile.costs)
    for i, layer in enumerate(layers):
        here = {o.name for o in chain.segment(i, i + 1, training=True).operations} & costs.keys()
        total = sum(costs[name].seconds for name in here)
        for name in here if total else ():
            seconds = costs[name].seconds * layer.cost.seconds / total
            costs[name] = costs[name]._replace(seconds=seconds)
    return replace(chain.profile, costs=costs)
