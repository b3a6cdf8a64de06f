"""SGD with biased gradients: what its theorem asks for, measured in a training by MGRIT.

A neural ODE of 32 steps learns Peaks with the gradients of one, two and three cycles, and with the
serial ones; the bias of every step, its bound, and the sums of learning rates and their squares:

    python examples/biased.py --picture docs/biased.png

On other examples, flattened: ``--data fashion-mnist=FOLDER --limit 1000``.

Bertsekas and Tsitsiklis, "Gradient Convergence in Gradient Methods with Errors" (SIAM J. Optim. 10,
2000).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn

from pararealize import MGRIT, ParallelNetwork
from pararealize.explain.table import Table
from pararealize.models import odenet
from studies.biased import BiasedTraining, Rates, train
from studies.datasets import add_data, read
from studies.peaks import load_peaks
from studies.running import start, timed_anyway

STEPS, SLICES = 32, 8
COLUMNS = (
    *("cycles", "bias, mean", "most", "on all", "estimate", "c₁, least"),
    *("‖∇L‖, first", "last", "accuracy, %", "run serially"),
)


def cycles(count: int, numbers: int) -> Callable[[nn.Module], ParallelNetwork]:
    """As many for the states as for the adjoints, over slices of four layers."""

    def prepare(model: nn.Module) -> ParallelNetwork:
        method = MGRIT(
            coarsening=4,
            coarse="rediscretized",
            forward_cycles=count,
            backward_cycles=count,
            batched="never",
        )
        return timed_anyway(
            model, SLICES, method=method, example_inputs=(torch.zeros(100, numbers),)
        )

    return prepare


def row(label: str, found: BiasedTraining) -> tuple[str, ...]:
    """The largest bias, the smallest c₁, and what training came to."""
    relative = [bias.relative for bias in found.batches]
    numbers = (
        *(statistics.mean(relative), max(relative), max(bias.relative for bias in found.whole)),
        *(statistics.mean(found.estimates), min(bias.along for bias in found.whole)),
        *(found.whole[0].norm, found.whole[-1].norm),
    )
    shown = (f"{number:.2g}" for number in numbers)
    return (label, *shown, f"{100 * found.accuracy:.1f}", str(found.serial_steps))


def draw(runs: Mapping[str, BiasedTraining], rates: Rates, file: Path) -> None:
    """The bias by step beside its bound, and the sums of rates and squares beside their limit."""
    from matplotlib import pyplot  # noqa: PLC0415  only where there is a picture

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    steps = range(len(next(iter(runs.values())).batches))
    for i, (label, found) in enumerate(runs.items()):
        if any(found.estimates):
            shade = 0.3 * i
            options = {"color": (shade, shade, shade), "linewidth": 0.8}
            left.plot(steps, [b.relative for b in found.batches], label=label, **options)
            whole = [b.step for b in found.whole], [b.relative for b in found.whole]
            left.plot(*whole, "o", markersize=4, **options)
    left.axhline(1.0, linestyle="--", color="black", label="bound")
    left.set(xlabel="step", ylabel="‖g - ∇L‖ / ‖∇L‖ (dots: on all examples)", yscale="log")
    left.legend(frameon=False)
    taken = [rates.at(t) for t in steps]
    right.plot(steps, list(accumulate(taken)), color="black", label="Σ α: infinite")
    squares = list(accumulate(rate**2 for rate in taken))
    right.plot(steps, squares, color="grey", label="Σ α²")
    right.axhline(rates.limit, linestyle="--", color="grey", label="its limit")
    right.set(xlabel="step", ylabel="sum of learning rates", yscale="log")
    right.legend(frameon=False)
    figure.savefig(file, dpi=100)


def main() -> None:
    """Train with every number of cycles from the same weights, on the same batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    add_data(parser, "peaks")
    parser.add_argument("--picture", type=Path, help="a file to draw into, as docs/biased.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.data == "peaks":
        examples = load_peaks(options.limit or 1000, options.limit or 1000)
    else:
        examples = read(options.data, limit=options.limit, form="vectors")
    rates, data = Rates(), options.data.partition("=")[0]
    numbers, classes = examples.train_inputs.shape[1], examples.classes
    runs: dict[str, BiasedTraining] = {}
    methods = {str(count): cycles(count, numbers) for count in options.cycles}
    for label, prepare in {**methods, "serial": None}.items():
        torch.manual_seed(options.seed)
        model = odenet(
            STEPS, width=options.width, horizon=5.0, in_features=numbers, classes=classes
        )
        begin = time.perf_counter()
        runs[label] = train(
            model,
            prepare,
            examples,
            rates,
            steps=options.steps,
            batch=100,
            every=max(1, options.steps // 20),
            seed=options.seed,
        )
        print(f"cycles: {label}, {time.perf_counter() - begin:.0f} s", flush=True)
    title = f"SGD with the gradients of multigrid cycles: {data}, {options.steps} steps"
    print(Table(title, COLUMNS, [row(label, found) for label, found in runs.items()]))
    taken = [rates.at(t) for t in range(options.steps)]
    squares = sum(rate**2 for rate in taken)
    print(f"Σ α = {sum(taken):.3g}, without a limit; Σ α² = {squares:.3g} of {rates.limit:.3g}")
    if options.picture:
        draw({f"cycles: {label}": found for label, found in runs.items()}, rates, options.picture)


if __name__ == "__main__":
    start(main)
