"""Latency of a converted network on two ranks, one sample a call, beside the serial network.

    mpiexec -n 2 python -m mpi4py examples/latency.py --cache trained

The ranks calibrate a deep ResNet for one sweep; its certificate makes doubtful answers exact.
Medians of calls in turns: the ranks with one thread each, with and without the certificate, and the
serial network with one thread and with two, each called four times in a row and timed but for the
first; beside them what is predicted from the seconds of the parts, timed again every 25 samples.
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
from pararealize.cli.comparison import Comparison
from pararealize.cli.data import Batches
from pararealize.cli.launch import meet
from studies.running import start
from studies.trained import STUDIES, Trained, depths, trained

WORLD = MPI.COMM_WORLD
FALLBACK, SWEEP = "with the certificate", "one sweep"
PREDICTED = "predicted for one sweep"
SERIAL = ("serial, 1 thread", "serial, 2 threads")

#: Calls of every variant in its turn.
CALLS = 4

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


def timed(network: Callable[[Tensor], Tensor] | None, sample: Tensor, threads: int) -> list[float]:
    """Seconds of calls in a row, the first of which is left out; ranks begin every one together.

    After a sleep a core is slow for a while. Where one rank calls a network, the other sleeps.
    """
    seconds = []
    meet(WORLD)
    with cores(threads):
        for _ in range(CALLS if network is not None else 0):
            if isinstance(network, ParallelNetwork):
                WORLD.Barrier()
            begin = time.perf_counter()
            network(sample)
            seconds.append(time.perf_counter() - begin)
    return seconds[1:]


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
    exact, agreed = 0, 0
    for i, sample in enumerate(samples):
        if i % 25 == 0:
            times[PREDICTED].append(forecast(net, run.data.train_inputs[:100]))
        for threads, name in enumerate(SERIAL, start=1):
            times[name] += timed(alone, sample, threads if alone is not None else 1)
        times[FALLBACK] += timed(net, sample, 1)
        exact += net.report.sweeps > 1
        agreed += int(net(sample).argmax()) == int(model(sample).argmax())
        net.rule = None
        times[SWEEP] += timed(net, sample, 1)
        net.rule = rule
    if WORLD.rank == 0:
        count = len(samples)
        share, doubted = agreed / count, exact / count
        print(f"{FALLBACK}: {share:.1%} of {count} agree, {doubted:.1%} were made exact")
    return times


def tell(net: ParallelNetwork, run: Trained) -> None:
    """Print on rank 0 how all of the test data are answered."""
    batches = Batches("test images", list(run.data.test_inputs.split(100)))
    found = Comparison(net, WORLD).over(batches)
    if found is None or found.quality is None:
        return
    print(
        f"{SWEEP}: {found.sweeps[1].agreement:.1%} of all {found.samples:,} test images agree, "
        f"{found.quality.fallback:.1%} where the {found.quality.doubted:.1%} doubted are exact"
    )


def main() -> None:
    """Calibrate on the ranks, count answers that differ, and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--network", choices=sorted(STUDIES), default="resnet1001")
    parser.add_argument(
        "--depth", type=int, nargs="+", default=[4, 3], help="blocks of the coarse networks"
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=20, help="samples a step of calibration")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--cost", default="measured", help="what the cut balances, or predicted")
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if WORLD.rank == 0:
        trained(options.network, 0, options.cache)
    meet(WORLD)
    serial = trained(options.network, 0, options.cache)
    net = calibrated(serial, options)
    if WORLD.rank == 0:
        print(net.explain())
    tell(net, serial)
    times = compare(net, serial, options.samples)
    if WORLD.rank == 0:
        report(times)


def report(times: Times) -> None:
    """Medians, and the median of the ratios to the better serial one in the same turn."""
    found = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    best = min(SERIAL, key=found.__getitem__)
    for name in (FALLBACK, SWEEP, *SERIAL):
        pairs = zip(times[best], times[name], strict=True)
        ratio = statistics.median(alone / here for alone, here in pairs)
        mean = statistics.mean(times[name]) * 1e3
        print(f"{name}: {found[name]:.2f} ms (mean {mean:.2f}), {ratio:.2f}x in its turn")
    away = found[PREDICTED] / found[SWEEP] - 1
    print(f"{PREDICTED}: {found[PREDICTED]:.2f} ms, {away:+.0%} from what was measured")


if __name__ == "__main__":
    start(main)
