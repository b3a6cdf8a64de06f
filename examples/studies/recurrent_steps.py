"""Training steps of recurrent networks beside one another, in turns, alone or shared by ranks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.explain.table import Table

#: Milliseconds by network, of every round.
Times = Mapping[str, Sequence[float]]


def step_times(
    nets: Mapping[str, nn.Module],
    x: Tensor,
    labels: Tensor,
    rounds: int,
    shared: Collection[str] = (),
    comm: Any = None,
) -> Times:
    """Milliseconds of a training step, in turns, but for the first round.

    Of the processor: on one thread, the time on a machine that does nothing else. With an mpi4py
    communicator wall-clock ones, as ranks wait for each other: all run what is ``shared``, and
    rank 0 alone the others.
    """
    clock = time.process_time if comm is None else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(rounds + 1):
        for name, net in nets.items():
            if comm is not None:
                comm.Barrier()
                if comm.rank and name not in shared:
                    continue
            begin = clock()
            net.zero_grad()
            functional.cross_entropy(net(x), labels).backward()
            found[name].append(1e3 * (clock() - begin))
    return {name: times[1:] for name, times in found.items()}


def steps_table(times: Times, base: str, x: Tensor) -> Table:
    """The least of every network's times, and how many times faster than ``base`` it is."""
    batch, length = x.shape[:2]
    rows = [
        (name, f"{min(found):.1f}", f"{_ratio(times[base], found):.2f}")
        for name, found in times.items()
    ]
    columns = ("network", "ms", "times faster than implicit, median")
    title = f"a training step: {batch} series of {length}, {torch.get_num_threads()} threads"
    return Table(title, columns, rows, left=("network",))


def _ratio(base: Sequence[float], times: Sequence[float]) -> float:
    return statistics.median(b / t for b, t in zip(base, times, strict=True))
