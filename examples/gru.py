"""Classic and implicit GRUs told to recognise exercises by a smartwatch: accuracy and time.

Seven exercises, windows of two seconds, tested on people who were not trained on:

    python examples/gru.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import MGRIT, models
from pararealize.explain.table import Table
from studies.running import start, timed_anyway
from studies.smartwatch import Smartwatch, load_watch


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: Adam with a one-cycle learning rate that peaks at ``rate``."""

    epochs: int = 8
    batch: int = 64
    rate: float = 5e-3
    clip: float = 1.0


@dataclass(frozen=True)
class Row:
    """A network of the table; ``prepare`` makes what is trained of it, a parallel one say."""

    name: str
    make: Callable[[int], nn.Module]
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model


@dataclass(frozen=True)
class Result:
    """Test accuracy in percent, and the seconds that training took."""

    accuracy: float
    seconds: float


def multigrid(model: nn.Module) -> nn.Module:
    """The network with its time in eight slices, which advance as one batch."""
    method = MGRIT(coarsening=4, coarse="rediscretized", forward_cycles=2, backward_cycles=1)
    assert isinstance(model, models.SequenceClassifier)
    example = torch.zeros(64, model.length, 6)
    return timed_anyway(model, 8, method=method, example_inputs=(example,))


def rows(width: int, dt: float) -> tuple[Row, ...]:
    """The networks to compare, all with the same initial weights for a seed."""
    return (
        Row("classic GRU", lambda length: models.gru(length, width=width, dt=dt)),
        Row("implicit GRU", lambda length: models.implicit_gru(length, width=width, dt=dt)),
        Row(
            "parallel implicit GRU",
            lambda length: models.implicit_gru(length, width=width, dt=dt),
            multigrid,
        ),
    )


def batches(watch: Smartwatch, recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled training windows; an epoch's last, smaller batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(watch.train_labels), generator=generator)
        for chosen in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
            yield watch.train_windows[chosen], watch.train_labels[chosen]


def train(net: nn.Module, watch: Smartwatch, recipe: Recipe, seed: int) -> None:
    """Minimise the cross entropy."""
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.rate)
    steps = recipe.epochs * (len(watch.train_labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    net.train()
    for windows, labels in batches(watch, recipe, seed):
        optimizer.zero_grad()
        functional.cross_entropy(net(windows), labels).backward()
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()


def accuracy(net: nn.Module, watch: Smartwatch) -> float:
    """Percentage of test windows whose exercise is found."""
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part).argmax(1) for part in watch.test_windows.split(256)])
    return 100 * (found == watch.test_labels).float().mean().item()


def trained(row: Row, watch: Smartwatch, recipe: Recipe, seed: int) -> Result:
    """Train one network on one split."""
    torch.manual_seed(seed)
    net = row.prepare(row.make(watch.train_windows.shape[1]))
    begin = time.perf_counter()
    train(net, watch, recipe, seed)
    seconds = time.perf_counter() - begin
    return Result(accuracy(net, watch), seconds)


def table(results: dict[str, list[Result]], seeds: Sequence[int], title: str) -> Table:
    """Accuracies of every seed, their mean, and seconds a training."""
    columns = ("network", *(f"seed {seed}" for seed in seeds), "mean, %", "seconds")
    rows = []
    for name, runs in results.items():
        each = [result.accuracy for result in runs]
        seconds = statistics.mean(result.seconds for result in runs)
        accuracies = [f"{value:.1f}" for value in (*each, statistics.mean(each))]
        rows.append((name, *accuracies, f"{seconds:.1f}"))
    return Table(title, columns, rows, left=("network",))


def main() -> None:
    """Train every network with every seed, which decides who tests, weights and order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--length", type=int, default=100, help="samples in a window, at 50 Hz")
    parser.add_argument("--stride", type=int, default=50, help="samples between windows")
    parser.add_argument("--width", type=int, default=64, help="numbers in the hidden state")
    parser.add_argument("--dt", type=float, default=1.0, help="step size")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(epochs=options.epochs)
    compared = rows(options.width, options.dt)
    results: dict[str, list[Result]] = {row.name: [] for row in compared}
    for seed in options.seeds:
        watch = load_watch(options.length, options.stride, seed=seed)
        for row in compared:
            result = trained(row, watch, recipe, seed)
            results[row.name].append(result)
            print(f"seed {seed}, {row.name}: {result.accuracy:.1f}% in {result.seconds:.1f} s")
    title = f"{options.length} samples, width {options.width}, {options.epochs} epochs: accuracy"
    print(table(results, options.seeds, title))


if __name__ == "__main__":
    start(main)
