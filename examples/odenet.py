"""Test accuracy of 64-step neural ODEs, serial and layer-parallel, on digits and on Peaks.

Dense networks on 5,000 MNIST digits, 64 channels, and on Peaks, 5 and 8 channels, three seeds:

    python examples/odenet.py

On other examples, flattened, in 64 channels: ``--data fashion-mnist=FOLDER``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from pararealize import MGRIT
from pararealize.explain.table import Table
from pararealize.models import odenet
from studies.datasets import add_data, read
from studies.labelled import Examples
from studies.odenets import AdamRecipe, Prepare, serial, train
from studies.peaks import load_peaks
from studies.running import start, timed_anyway

STEPS = 64
HORIZON = 5.0


def multigrid(net: nn.Module) -> nn.Module:
    """The same network in four slices, two cycles for the states and one for their adjoints."""
    method = MGRIT(coarsening=8, coarse="summed", forward_cycles=2, backward_cycles=1)
    inputs = next(m.in_features for m in net.modules() if isinstance(m, nn.Linear))
    return timed_anyway(net, 4, method=method, example_inputs=(torch.zeros(100, inputs),))


#: What is trained in place of the network, a row each.
METHODS: list[tuple[str, Prepare]] = [("serial", serial), ("MGRIT 2/1, n = 4", multigrid)]


@dataclass(frozen=True)
class Study:
    """Examples, the network that learns them, and how it is trained."""

    load: Callable[[], Examples]
    make: Callable[[], nn.Module]
    recipe: AdamRecipe


def vectors(data: str, limit: int | None = None) -> Study:
    """Examples as vectors; the digits of a package are images of 28 × 28 pixels, and moved."""
    form = "images" if data == "digits" else "vectors"
    examples = read(data, limit=limit, form=form)
    numbers, classes = examples.train_inputs[0].numel(), examples.classes
    return Study(
        lambda: examples,
        lambda: odenet(STEPS, width=64, horizon=HORIZON, in_features=numbers, classes=classes),
        AdamRecipe(epochs=50, rate=0.005, shift=2 if form == "images" else 0),
    )


def peaks(width: int) -> Study:
    """Points of the plane, lifted to ``width`` channels."""
    return Study(
        load_peaks,
        lambda: odenet(STEPS, width=width, horizon=HORIZON, in_features=2, classes=5),
        AdamRecipe(epochs=20, rate=0.04),
    )


STUDIES: dict[str, Callable[[], Study]] = {
    "digits": lambda: vectors("digits"),
    "Peaks, 5 channels": lambda: peaks(5),
    "Peaks, 8 channels": lambda: peaks(8),
}


def accuracy(name: str, study: Study, label: str, prepare: Prepare, seed: int) -> float:
    """Train one network; its test accuracy in percent."""
    torch.manual_seed(seed)
    net = study.make()
    begin = time.perf_counter()
    outcome = train(net, study.load(), replace(study.recipe, seed=seed), prepare)
    seconds = time.perf_counter() - begin
    print(f"{name}, {label}, seed {seed}: {outcome.accuracy:.1%} in {seconds:.0f} s")
    return 100 * outcome.accuracy


def table(scores: dict[tuple[str, str], list[float]]) -> Table:
    """Accuracies by data and method, and their mean."""
    rows = []
    for (name, label), values in scores.items():
        each = ", ".join(f"{value:.2f}" for value in values)
        rows.append((name, label, each, f"{statistics.mean(values):.2f}"))
    title = f"neural ODEs of {STEPS} steps: test accuracy, %"
    return Table(title, ("data", "method", "seeds", "mean"), rows, left=("data", "method"))


def main() -> None:
    """Run every study with every method, seeds 0, 1, ..."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--only", choices=sorted(STUDIES))
    parser.add_argument("--epochs", type=int, help="in place of the studies' own")
    add_data(parser, "")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    studies = {name: STUDIES[name] for name in ([options.only] if options.only else STUDIES)}
    if options.data:
        studies = {options.data.partition("=")[0]: lambda: vectors(options.data, options.limit)}
    scores: dict[tuple[str, str], list[float]] = {}
    for name, load in studies.items():
        study = load()
        if options.epochs:
            study = replace(study, recipe=replace(study.recipe, epochs=options.epochs))
        for label, prepare in METHODS:
            scores[name, label] = [
                accuracy(name, study, label, prepare, seed) for seed in range(options.seeds)
            ]
    print(table(scores))


if __name__ == "__main__":
    start(main)
