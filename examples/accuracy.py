"""Test accuracy of parareal networks beside the serial one: same epochs, batches and weights.

A ResNet-56 with n = 2, 3, 6 and a VGG-11 with n = 3 on 5,000 MNIST digits, three seeds:

    python examples/accuracy.py
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pararealize import models, pararealize
from pararealize.cli.digits import load_digits, smaller
from pararealize.cli.training import Recipe, train
from pararealize.explain.table import Table
from studies.running import start


@dataclass(frozen=True)
class Study:
    """A network, the numbers of subnetworks to try, and how all of them are trained.

    ``pooling`` is the side of the squares of pixels that are averaged first, to save time.
    """

    make: Callable[[], nn.Module]
    counts: tuple[int, ...]
    pooling: int
    recipe: Recipe


STUDIES = {
    "ResNet-56": Study(
        lambda: models.resnet(56, channels=1, width=8), (2, 3, 6), 2, Recipe(epochs=20, batch=100)
    ),
    "VGG-11": Study(
        lambda: models.vgg11(channels=1, classes=10, head="small", width=16, batch_norm=True),
        (3,),
        1,
        Recipe(epochs=12, rate=0.1, shift=2),
    ),
}


def accuracies(name: str, seed: int) -> dict[str, float]:
    """Train the serial and the parareal networks of one seed; test accuracies in percent."""
    study = STUDIES[name]
    digits = smaller(load_digits(), study.pooling)
    torch.manual_seed(seed)
    model = study.make()
    example = (digits.train_images[: study.recipe.batch],)
    nets: dict[str, nn.Module] = {"serial": copy.deepcopy(model)}
    for n in study.counts:
        nets[f"n = {n}"] = pararealize(model, n, example_inputs=example)
    scores = {}
    for label, net in nets.items():
        begin = time.perf_counter()
        outcome = train(net, digits, replace(study.recipe, seed=seed), lambda _loss: None)
        scores[label] = 100 * outcome.accuracy
        seconds = time.perf_counter() - begin
        print(f"{name}, seed {seed}, {label}: {outcome.accuracy:.1%} in {seconds:.0f} s")
    return scores


def table(name: str, runs: list[dict[str, float]]) -> Table:
    """Accuracies by network, their mean, and how far it lies from the serial network's."""
    title = f"{name}: test accuracy, %, {STUDIES[name].recipe.epochs} epochs"
    rows = []
    serial = statistics.mean(run["serial"] for run in runs)
    for label in runs[0]:
        values = [run[label] for run in runs]
        mean = statistics.mean(values)
        each = ", ".join(f"{value:.1f}" for value in values)
        rows.append((label, each, f"{mean:.2f}", f"{mean - serial:+.2f}"))
    return Table(title, ("network", "seeds", "mean", "mean - serial"), rows, left=("network",))


def main() -> None:
    """Run the studies; every seed's result is kept in a file and not computed again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=sorted(STUDIES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("accuracy"), help="folder of results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else STUDIES:
        runs = []
        for seed in options.seeds:
            file = options.out / f"{name}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(accuracies(name, seed)))
            runs.append(json.loads(file.read_text()))
        print(table(name, runs))


if __name__ == "__main__":
    start(main)
