"""Latency of a converted network on two ranks, one sample a call, beside the serial network.

    mpiexec -n 2 python -m mpi4py examples/latency.py --cache trained

The ranks calibrate a deep ResNet for one sweep; its certificate makes doubtful answers exact.
Medians of calls in turns: the ranks with one thread each, with and without the certificate, and the
serial network with one thread and with two, each called twice and timed the second time; beside
them what is predicted from the seconds of the parts, which are timed again every 50 samples.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mpi4py import MPI
from torch import Tensor

from pararealize import ParallelNetwork, Parareal, pararealize
from pararealize.studies.launch import meet
from pararealize.studies.options import depths
from pararealize.studies.trained import STUDIES, Trained, trained

WORLD = MPI.COMM_WORLD
FALLBACK, SWEEP = "with the certificate", "one sweep"
PREDICTED = "predicted for one sweep"
SERIAL = ("serial, 1 thread", "serial, 2 threads")

#: Seconds of calls, by what was called.
Times = dict[str, list[float]]


def calibrated(run: Trained, options: argparse.Namespace) -> ParallelNetwork:
    """On the ranks, cut by predicted or measured costs, calibrated for calls of one sample."""
    images = run.data.train_inputs
    depth = depths(options.depth)
    method = Parareal("stepped", "difference", guess="coarse", coarse_depth=depth)
    example = (images[:1],)
    net = pararealize(
        run.model, WORLD.size, method=method, example_inputs=example, cost=options.cost, comm=WORLD
    ).eval()
    how = {"epochs": options.epochs, "batch": options.batch, "rate": options.rate}
    net.calibrate(images, **how, above="exact", progress=False)
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
    """Seconds of the second of two calls, as where nothing else runs; ranks begin together."""
    seconds = 0.0
    for _ in range(2):
        meet(WORLD)
        with cores(threads):
            seconds = _timed(network, sample)
    return seconds


def _timed(network: Callable[[Tensor], Tensor] | None, sample: Tensor) -> float:
    WORLD.Barrier()
    begin = time.perf_counter()
    if network is not None:
        network(sample)
    return time.perf_counter() - begin


def forecast(net: ParallelNetwork, images: Tensor) -> float:
    """Seconds of one sweep as predicted from its parts as they are now; no weights change."""
    rule = net.rule
    net.calibrate(images, epochs=0, batch=50, progress=False)
    net.rule = rule
    return net.plan.parallel_seconds


@torch.no_grad()
def compare(net: ParallelNetwork, run: Trained, count: int) -> Times:
    """Seconds of every call, by what was called; and rank 0 prints how the answers compare."""
    model, samples = run.model.eval(), run.data.test_inputs[:count].split(1)
    alone, rule = (model if WORLD.rank == 0 else None), net.rule
    times: Times = {name: [] for name in (FALLBACK, SWEEP, *SERIAL, PREDICTED)}
    exact, agreed, agreed_once = 0, 0, 0
    for i, sample in enumerate(samples):
        if i % 50 == 0:
            times[PREDICTED].append(forecast(net, run.data.train_inputs[:100]))
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
    parser.add_argument("--network", choices=sorted(STUDIES), default="resnet1001")
    parser.add_argument(
        "--depth", type=int, nargs="+", default=[3, 2], help="blocks of the coarse networks"
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=20, help="samples a step of calibration")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--cost", default="measured", help="what the cut balances, or predicted")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if WORLD.rank == 0:
        trained(options.network, 0, options.cache)
    meet(WORLD)
    run = trained(options.network, 0, options.cache)
    net = calibrated(run, options)
    if WORLD.rank == 0:
        print(net.explain())
    times = compare(net, run, options.samples)
    if WORLD.rank == 0:
        report(times)


def report(times: Times) -> None:
    """Medians, and ratios to the better serial one."""
    found = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    best = min(found[name] for name in SERIAL)
    for name, milliseconds in found.items():
        mean = statistics.mean(times[name]) * 1e3
        print(f"{name}: {milliseconds:.2f} ms (mean {mean:.2f}), {best / milliseconds:.2f}x")
    away = found[PREDICTED] / found[SWEEP] - 1
    print(f"prediction: {away:+.0%} from what was measured")


if __name__ == "__main__":
    main()
