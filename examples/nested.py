"""Nested iteration on Peaks: 8, 16 and 32 layers, beside 32 layers from the start.

Both do the same work, counted in layers that an example goes through, at a small learning rate and
at one near the best of either; nested iteration, most of whose steps are shallow, takes more of
them. Twelve runs of each:

    python examples/nested.py

Cyr, Günther and Schroder, "Multilevel Initialization for Layer-Parallel Deep Neural Network
Training" (arXiv:1912.08974).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from pararealize.cli.training import score
from pararealize.layers import nested_iteration
from pararealize.models import odenet
from studies.labelled import Examples
from studies.odenets import AdamRecipe, train
from studies.peaks import load_peaks

DEPTHS = (8, 16, 32)

#: Of every level; the deepest network alone has as many epochs as come to the same work.
RECIPE = AdamRecipe(epochs=12, batch=250)


def network(depth: int) -> nn.Module:
    """Dense steps of eight channels on [0, 5]."""
    return odenet(depth, width=8, horizon=5.0, in_features=2, classes=5)


def nested(examples: Examples, recipe: AdamRecipe) -> nn.Module:
    """Every depth after the other, each from the last one's weights."""
    return nested_iteration(network, DEPTHS, lambda net: void(train(net, examples, recipe)))


def direct(examples: Examples, recipe: AdamRecipe) -> nn.Module:
    """The deepest network, from random weights."""
    net = network(DEPTHS[-1])
    train(net, examples, replace(recipe, epochs=recipe.epochs * sum(DEPTHS) // DEPTHS[-1]))
    return net


METHODS: dict[str, Callable[[Examples, AdamRecipe], nn.Module]] = {
    "nested " + " → ".join(map(str, DEPTHS)): nested,
    f"{DEPTHS[-1]} from the start": direct,
}


def void(_result: object) -> None:
    """Training changes the network; what it tells is not needed."""


def run(label: str, examples: Examples, recipe: AdamRecipe, console: Console) -> float:
    """Train once; the test accuracy in percent."""
    torch.manual_seed(recipe.seed)
    begin = time.perf_counter()
    net = METHODS[label](examples, recipe)
    seconds = time.perf_counter() - begin
    _, accuracy = score(net, examples.test_inputs, examples.test_labels)
    name = f"{label}, rate {recipe.rate}, seed {recipe.seed}"
    console.print(f"{name}: {accuracy:.1%} in {seconds:.0f} s")
    return 100 * accuracy


def table(scores: dict[tuple[str, float], list[float]]) -> Table:
    """What the runs of every method come to."""
    runs = len(next(iter(scores.values())))
    result = Table(title=f"Peaks: test accuracy, %, {runs} runs of equal work")
    for column in ("layers", "rate", "mean", "median", "least", "most", "deviation"):
        result.add_column(column, justify="left" if column == "layers" else "right")
    for (label, rate), values in scores.items():
        found = statistics.mean(values), statistics.median(values), min(values), max(values)
        shown = (f"{value:.2f}" for value in (*found, statistics.pstdev(values)))
        result.add_row(label, f"{rate}", *shown)
    return result


def main() -> None:
    """Run both from the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.04])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, examples = Console(width=100), load_peaks()
    scores = {
        (label, rate): [
            run(label, examples, replace(RECIPE, rate=rate, seed=seed), console)
            for seed in range(options.runs)
        ]
        for rate in options.rates
        for label in METHODS
    }
    console.print(table(scores))


if __name__ == "__main__":
    main()
