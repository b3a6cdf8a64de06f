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
from torch import nn

from pararealize.cli.training import score
from pararealize.explain.table import Table
from pararealize.layers import nested_iteration
from pararealize.models import odenet
from studies.labelled import Examples
from studies.odenets import AdamRecipe, train
from studies.peaks import load_peaks
from studies.running import start

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


def accuracy(label: str, examples: Examples, recipe: AdamRecipe) -> float:
    """Train once; the test accuracy in percent."""
    torch.manual_seed(recipe.seed)
    begin = time.perf_counter()
    net = METHODS[label](examples, recipe)
    seconds = time.perf_counter() - begin
    _, share = score(net, examples.test_inputs, examples.test_labels)
    name = f"{label}, rate {recipe.rate}, seed {recipe.seed}"
    print(f"{name}: {share:.1%} in {seconds:.0f} s")
    return 100 * share


def table(scores: dict[tuple[str, float], list[float]]) -> Table:
    """What the runs of every method come to."""
    runs = len(next(iter(scores.values())))
    columns = ("layers", "rate", "mean", "median", "least", "most", "deviation")
    rows = []
    for (label, rate), values in scores.items():
        found = statistics.mean(values), statistics.median(values), min(values), max(values)
        shown = (f"{value:.2f}" for value in (*found, statistics.pstdev(values)))
        rows.append((label, f"{rate}", *shown))
    return Table(f"Peaks: test accuracy, %, {runs} runs of equal work", columns, rows, ("layers",))


def main() -> None:
    """Run both from the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.04])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = load_peaks()
    scores = {
        (label, rate): [
            accuracy(label, examples, replace(RECIPE, rate=rate, seed=seed))
            for seed in range(options.runs)
        ]
        for rate in options.rates
        for label in METHODS
    }
    print(table(scores))


if __name__ == "__main__":
    start(main)
