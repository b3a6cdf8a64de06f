"""Latency of a converted network on two ranks, one sample a call, beside the serial network.

    mpiexec -n 2 python -m mpi4py examples/latency.py --cache trained

A ResNet-164 is calibrated for one sweep, and its certificate makes doubtful answers exact. Medians
of calls in turns: the ranks with one thread each, the serial network with one thread and with two.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mpi4py import MPI
from torch import Tensor, nn

from pararealize import Parareal, load, pararealize
from pararealize.studies.launch import meet
from pararealize.studies.trained import Trained, trained

WORLD = MPI.COMM_WORLD


def calibrated(run: Trained, depth: int, epochs: int) -> Path:
    """The folder of a network in two subnetworks, calibrated by rank 0 for calls of one sample."""
    folder = Path(WORLD.bcast(tempfile.mkdtemp()))
    if WORLD.rank == 0:
        images = run.data.train_inputs
        method = Parareal("thinned", "difference", guess="coarse", coarse_depth=depth)
        example = (images[:1],)
        net = pararealize(run.model, 2, method=method, example_inputs=example, cost="measured")
        net.calibrate(images, epochs=epochs, batch=50, above="exact")
        net.save(folder)
    meet(WORLD)
    return folder


def timed(network: Callable[[Tensor], Tensor] | None, sample: Tensor, threads: int) -> float:
    """Seconds of one call; ranks begin together."""
    meet(WORLD)
    torch.set_num_threads(threads)
    WORLD.Barrier()
    begin = time.perf_counter()
    if network is not None:
        network(sample)
    return time.perf_counter() - begin


def main() -> None:
    """Calibrate, load on the ranks, time, and count answers that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="a network that was calibrated before")
    parser.add_argument("--samples", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = trained("resnet164", 0, options.cache)
    folder = options.folder or calibrated(run, options.depth, options.epochs)
    net = load(folder, run.model, comm=WORLD).eval()
    alone: nn.Module | None = run.model.eval() if WORLD.rank == 0 else None
    times: dict[str, list[float]] = {"ranks": [], "serial, 1 thread": [], "serial, 2 threads": []}
    agreed, exact = 0, 0
    with torch.no_grad():
        for sample in run.data.test_inputs[: options.samples].split(1):
            times["ranks"].append(timed(net, sample, 1))
            times["serial, 1 thread"].append(timed(alone, sample, 1))
            times["serial, 2 threads"].append(timed(alone, sample, 2 if alone is not None else 1))
            torch.set_num_threads(1)
            answer = net(sample)
            exact += net.report.sweeps > 1
            agreed += bool(answer.argmax() == run.model.eval()(sample).argmax())
    if WORLD.rank == 0:
        _print(times, agreed / options.samples, exact / options.samples)


def _print(times: dict[str, list[float]], agreed: float, exact: float) -> None:
    found = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    best = min(found["serial, 1 thread"], found["serial, 2 threads"])
    for name, milliseconds in found.items():
        mean = statistics.mean(times[name]) * 1e3
        print(f"{name}: {milliseconds:.2f} ms (mean {mean:.2f})")
    print(
        f"{best / found['ranks']:.2f} times as fast as the better serial one; {agreed:.2%} agree, "
        f"{exact:.1%} were made exact"
    )


if __name__ == "__main__":
    main()
