"""Nested iteration on Peaks: 8, 16 and 32 layers, beside 32 layers from the start.

With ``--published`` in the setting of the paper instead: L-BFGS on 5,000 points at once, networks
of 5 and of 8 channels, 12 runs for each of four pairs of hyper-parameters, two levels and three:

    python examples/nested.py --published

By default both do the same work, counted in layers that an example goes through, at a small
learning rate and at one near the best of either; nested iteration, most of whose steps are shallow,
takes more of them. Twelve runs of each:

    python examples/nested.py

On other examples, flattened, as those of Indian Pines: ``--data indian-pines=FOLDER``.

Cyr, Günther and Schroder, "Multilevel Initialization for Layer-Parallel Deep Neural Network
Training" (arXiv:1912.08974).
"""

from __future__ import annotations

import argparse
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pararealize.cli.training import score
from pararealize.explain.table import Table
from pararealize.layers import nested_iteration
from pararealize.models import odenet
from studies import published
from studies.control import Setting
from studies.datasets import add_data, read
from studies.labelled import Examples
from studies.odenets import AdamRecipe, train
from studies.running import start

DEPTHS = (8, 16, 32)

#: Of every level; the deepest network alone has as many epochs as come to the same work.
RECIPE = AdamRecipe(epochs=12, batch=250)


def network(examples: Examples, depth: int) -> nn.Module:
    """Dense steps of eight channels on [0, 5]; of 32 for examples that are no points."""
    numbers, classes = examples.train_inputs.shape[1], examples.classes
    width = 8 if numbers == 2 else 32
    return odenet(depth, width=width, horizon=5.0, in_features=numbers, classes=classes)


def nested(examples: Examples, recipe: AdamRecipe) -> nn.Module:
    """Every depth after the other, each from the last one's weights."""
    make = partial(network, examples)
    return nested_iteration(make, DEPTHS, lambda net: void(train(net, examples, recipe)))


def direct(examples: Examples, recipe: AdamRecipe) -> nn.Module:
    """The deepest network, from random weights."""
    net = network(examples, DEPTHS[-1])
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


def table(data: str, scores: Mapping[tuple[str, float], list[float]]) -> Table:
    """What the runs of every method come to."""
    runs = len(next(iter(scores.values())))
    columns = ("layers", "rate", "mean", "median", "least", "most", "deviation")
    rows = []
    for (label, rate), values in scores.items():
        found = statistics.mean(values), statistics.median(values), min(values), max(values)
        shown = (f"{value:.2f}" for value in (*found, statistics.pstdev(values)))
        rows.append((label, f"{rate}", *shown))
    return Table(f"{data}: test accuracy, %, {runs} runs of equal work", columns, rows, ("layers",))


def as_published(options: Namespace, data: str, examples: Examples) -> Table:
    """Every method with every pair of hyper-parameters, seed after seed."""
    numbers, classes = examples.train_inputs.shape[1], examples.classes
    found = {}
    for width in options.widths:
        setting = Setting(width=width, inputs=numbers, classes=classes, horizon=options.horizon)
        for run in published.runs(setting, options.runs, options.share):
            found[run] = outcome = published.kept(run, examples, options.keep)
            levels = ", ".join(f"{accuracy:.1f}" for accuracy in outcome.levels)
            print(f"{width} channels, {run.method}, seed {run.seed}: {levels}%", flush=True)
    paper = published.PAPER if data == "peaks" else {}
    title = f"{data}: test accuracy, %, networks of {published.METHODS['from the start'][0]} layers"
    return published.table(title, found, paper)


def main() -> None:
    """Run both from the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.04])
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--threads", type=int, default=1)
    add_data(parser, "peaks")
    parser.add_argument("--published", action="store_true", help="in the setting of the paper")
    parser.add_argument("--widths", type=int, nargs="+", default=[5, 8], help="channels, published")
    parser.add_argument("--horizon", type=float, default=1.0, help="of time, published")
    parser.add_argument("--share", type=float, default=1.0, help="of the work, published")
    parser.add_argument("--keep", type=Path, help="a file for what has been run, published")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = read(options.data, limit=options.limit, form="vectors")
    data = options.data.partition("=")[0]
    if options.published:
        print(as_published(options, data, examples))
        return
    recipe = replace(RECIPE, epochs=options.epochs)
    scores = {
        (label, rate): [
            accuracy(label, examples, replace(recipe, rate=rate, seed=seed))
            for seed in range(options.runs)
        ]
        for rate in options.rates
        for label in METHODS
    }
    print(table(data, scores))


if __name__ == "__main__":
    start(main)
