"""Latency of a converted network on two ranks, one sample a call, beside the serial network.

    mpiexec -n 2 python -m mpi4py examples/latency.py --cache trained

The ranks calibrate a deep ResNet for one sweep; its certificate makes doubtful answers exact.
Medians of calls in turns: the ranks with one thread each, with and without the certificate, and the
serial network with one thread and with two; beside them what was predicted on calibrating, and when
the parts were timed again afterwards.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mpi4py import MPI
from torch import Tensor, nn

from pararealize import ParallelNetwork, Parareal, pararealize
from pararealize.studies.launch import meet
from pararealize.studies.trained import STUDIES, Trained, trained

WORLD = MPI.COMM_WORLD
FALLBACK, SWEEP = "with the certificate", "one sweep"
SERIAL = ("serial, 1 thread", "serial, 2 threads")

#: Seconds of calls, by what was called.
Times = dict[str, list[float]]


def calibrated(run: Trained, depth: int, epochs: int, cost: str) -> ParallelNetwork:
    """On the ranks, cut by predicted or measured costs, calibrated for calls of one sample."""
    images = run.data.train_inputs
    method = Parareal("stepped", "difference", guess="coarse", coarse_depth=depth)
    example = (images[:1],)
    net = pararealize(
        run.model, WORLD.size, method=method, example_inputs=example, cost=cost, comm=WORLD
    ).eval()
    net.calibrate(images, epochs=epochs, batch=50, above="exact", progress=False)
    return net


@contextmanager
def cores(threads: int) -> Iterator[None]:
    """A block with so many threads; mpiexec binds a rank to one core, which is no place for two."""
    has = hasattr(os, "sched_setaffinity")
    bound = os.sched_getaffinity(0) if has else set()
    if has and threads > 1:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(1)
        if has:
            os.sched_setaffinity(0, bound)


def timed(network: Callable[[Tensor], Tensor] | None, sample: Tensor, threads: int) -> float:
    """Seconds of one call; ranks begin together."""
    meet(WORLD)
    with cores(threads):
        return _timed(network, sample)


def _timed(network: Callable[[Tensor], Tensor] | None, sample: Tensor) -> float:
    WORLD.Barrier()
    begin = time.perf_counter()
    if network is not None:
        network(sample)
    return time.perf_counter() - begin


@torch.no_grad()
def compare(net: ParallelNetwork, model: nn.Module, samples: Sequence[Tensor]) -> Times:
    """Seconds of every call, by what was called; and rank 0 prints how the answers compare."""
    alone, rule = (model if WORLD.rank == 0 else None), net.rule
    times: Times = {name: [] for name in (FALLBACK, SWEEP, *SERIAL)}
    exact, agreed, agreed_once = 0, 0, 0
    for sample in samples:
        wanted = int(model(sample).argmax())
        for threads, name in enumerate(SERIAL, start=1):
            times[name].append(timed(alone, sample, threads if alone is not None else 1))
        times[FALLBACK].append(timed(net, sample, 1))
        exact += net.report.sweeps > 1
        agreed += int(net(sample).argmax()) == wanted
        net.rule = None
        times[SWEEP].append(timed(net, sample, 1))
        agreed_once += int(net(sample).argmax()) == wanted
        net.rule = rule
    if WORLD.rank == 0:
        count = len(samples)
        print(f"{FALLBACK}: {agreed / count:.1%} agree, {exact / count:.1%} were made exact")
        print(f"{SWEEP}: {agreed_once / count:.1%} agree")
    return times


def main() -> None:
    """Calibrate on the ranks, time, and count answers that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--network", choices=sorted(STUDIES), default="resnet650")
    parser.add_argument("--depth", type=int, default=3, help="blocks of a coarse network")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--cost", default="measured", help="what the cut balances, or predicted")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if WORLD.rank == 0:
        trained(options.network, 0, options.cache)
    meet(WORLD)
    run = trained(options.network, 0, options.cache)
    net = calibrated(run, options.depth, options.epochs, options.cost)
    times = compare(net, run.model.eval(), run.data.test_inputs[: options.samples].split(1))
    predicted = [net.plan.parallel_seconds]
    if WORLD.rank == 0:
        print(net.explain())
    net.calibrate(run.data.train_inputs[:100], epochs=0, batch=50, progress=False)  # times only
    predicted.append(net.plan.parallel_seconds)
    if WORLD.rank == 0:
        report(times, predicted)


def report(times: Times, predicted: Sequence[float]) -> None:
    """Medians, and ratios to the better serial one."""
    found = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    best = min(found[name] for name in SERIAL)
    for name, milliseconds in found.items():
        mean = statistics.mean(times[name]) * 1e3
        print(f"{name}: {milliseconds:.2f} ms (mean {mean:.2f}), {best / milliseconds:.2f}x")
    mean, before, after = (1e3 * value for value in (statistics.mean(predicted), *predicted))
    print(
        f"predicted for {SWEEP}: {before:.2f} ms before, {after:.2f} ms after, "
        f"their mean {mean / found[SWEEP] - 1:+.0%} from the measured median"
    )


if __name__ == "__main__":
    main()
