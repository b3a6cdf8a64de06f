"""MG/OPT beside single-level SGD: accuracy at a third of the work, on Peaks and on digits.

Neural ODEs of 32 steps. Work is counted in gradient evaluations of those: one of an ODE of eight
steps is a quarter. Single-level training gets all of the work and a third of it; the others, which
step on eight layers as well, a third; three seeds:

    python examples/mgopt.py

On other examples, flattened, as the digits are: ``--data svhn=FOLDER``.

Gaedke-Merzhäuser, Kopaničáková and Krause, "Multilevel Minimization for Deep Residual Networks"
(arXiv:2004.06196).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from pararealize.cli.digits import smaller
from pararealize.explain.table import Table
from pararealize.models import odenet
from studies.datasets import add_data, digits, read
from studies.labelled import Examples
from studies.levels import LevelsOutcome, LevelsRecipe, Phase, train
from studies.peaks import load_peaks
from studies.running import start

SHALLOW, DEEP = 8, 32

#: Of every method, its phases and its share of the work.
METHODS: dict[str, tuple[tuple[Phase, ...], float]] = {
    "single level": ((Phase((DEEP,), 1.0),), 1.0),
    "single level, a third": ((Phase((DEEP,), 1.0),), 1 / 3),
    "MG/OPT": ((Phase((SHALLOW, DEEP), 1.0),), 1 / 3),
    "nested iteration": ((Phase((SHALLOW,), 0.4), Phase((DEEP,), 0.6)), 1 / 3),
    "nested, then MG/OPT": ((Phase((SHALLOW,), 0.4), Phase((SHALLOW, DEEP), 0.6)), 1 / 3),
}


@dataclass(frozen=True)
class Study:
    """Examples, the network of a depth, and how it is trained."""

    examples: Examples
    make: Callable[[int], nn.Module]
    recipe: LevelsRecipe


def peaks() -> Study:
    """Points of the plane, lifted to eight channels."""

    def make(depth: int) -> nn.Module:
        return odenet(depth, width=8, horizon=5.0, in_features=2, classes=5)

    return Study(load_peaks(), make, LevelsRecipe(work=450, batch=250, rate=0.1))


def pooled() -> Study:
    """5,000 MNIST digits, pooled to 7 × 7 pixels."""
    return vectors(Examples.of_digits(smaller(digits().as_digits("digits"), 4)).flat())


def vectors(examples: Examples) -> Study:
    """Vectors, in 32 channels."""
    numbers, classes = examples.train_inputs.shape[1], examples.classes

    def make(depth: int) -> nn.Module:
        return odenet(depth, width=32, horizon=5.0, in_features=numbers, classes=classes)

    return Study(examples, make, LevelsRecipe(work=300, batch=100, rate=0.02))


STUDIES = {"Peaks": peaks, "digits": pooled}


def row(data: str, label: str, runs: list[LevelsOutcome]) -> tuple[str, ...]:
    """Accuracies of every seed and their mean; work and gradient evaluations of the first."""
    each = ", ".join(f"{100 * run.accuracy:.1f}" for run in runs)
    mean = f"{100 * statistics.mean(run.accuracy for run in runs):.2f}"
    counts = (str(runs[0].gradients.get(depth, 0)) for depth in (SHALLOW, DEEP))
    return (data, label, each, mean, *counts, f"{runs[0].work:.0f}")


def main() -> None:
    """Run every study with every method, seeds 0, 1, ..."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--only", choices=sorted(STUDIES))
    parser.add_argument("--adam", type=float, help="Adam, with this learning rate")
    parser.add_argument("--share", type=float, default=1.0, help="of the work, to try it out")
    parser.add_argument("--threads", type=int, default=1)
    add_data(parser, "")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    studies = {name: STUDIES[name] for name in ([options.only] if options.only else STUDIES)}
    if options.data:
        given = read(options.data, limit=options.limit, form="vectors")
        studies = {options.data.partition("=")[0]: lambda: vectors(given)}
    rows = []
    for data, load in studies.items():
        study = load()
        recipe = replace(study.recipe, work=options.share * study.recipe.work)
        if options.adam:
            recipe = replace(recipe, adam=True, rate=options.adam)
        for label, (phases, share) in METHODS.items():
            begin = time.perf_counter()
            part = replace(recipe, work=share * recipe.work)
            runs = [
                train(study.make, phases, study.examples, replace(part, seed=seed))
                for seed in range(options.seeds)
            ]
            rows.append(row(data, label, runs))
            print(*rows[-1], f"in {time.perf_counter() - begin:.0f} s", flush=True)
    gradients = (f"∇ of {SHALLOW} layers", f"of {DEEP}")
    columns = ("data", "method", "seeds", "mean", *gradients, "work")
    title = "MG/OPT: test accuracy, %, gradient evaluations, and their work"
    print(Table(title, columns, rows, left=("data", "method")))


if __name__ == "__main__":
    start(main)
