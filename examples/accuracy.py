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
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from pararealize import models, pararealize
from pararealize.demo import smaller
from pararealize.digits import Digits, load_digits
from pararealize.training import Recipe, train

STUDIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Recipe]] = {
    "ResNet-56": (
        lambda: models.resnet(56, channels=1),
        (2, 3, 6),
        Recipe(epochs=12, batch=100, rate=0.2),
    ),
    "VGG-11": (
        lambda: models.vgg11(channels=1, classes=10, head="small", width=16, batch_norm=True),
        (3,),
        Recipe(epochs=12, batch=100, rate=0.05),
    ),
}


def study(name: str, digits: Digits, seeds: int, out: Path, console: Console) -> Table:
    """Train serial and parareal networks for every seed; a table of accuracies in percent."""
    make, counts, recipe = STUDIES[name]
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = make()
        example = (digits.train_images[: recipe.batch],)
        nets: dict[str, nn.Module] = {"serial": copy.deepcopy(model)}
        for n in counts:
            nets[f"n = {n}"] = pararealize(model, n, example_inputs=example)
        for label, net in nets.items():
            begin = time.perf_counter()
            seeded = Recipe(recipe.epochs, recipe.batch, recipe.rate, seed=seed)
            outcome = train(net, digits, seeded, lambda _loss: None)
            scores.setdefault(label, []).append(100 * outcome.accuracy)
            seconds = time.perf_counter() - begin
            console.print(f"{name} seed {seed} {label}: {outcome.accuracy:.2%}, {seconds:.0f} s")
            out.write_text(json.dumps({name: scores}))
    return _table(name, scores)


def _table(name: str, scores: dict[str, list[float]]) -> Table:
    table = Table(title=f"{name}: test accuracy, %")
    for column in ("network", "seeds", "mean", "mean - serial"):
        table.add_column(column, justify="right")
    serial = statistics.mean(scores["serial"])
    for label, values in scores.items():
        mean = statistics.mean(values)
        each = ", ".join(f"{v:.1f}" for v in values)
        table.add_row(label, each, f"{mean:.2f}", f"{mean - serial:+.2f}")
    return table


def main() -> None:
    """Run the studies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(STUDIES))
    parser.add_argument("--pooling", type=int, default=2, help="average squares of pixels first")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=100)
    digits = smaller(load_digits(), options.pooling)
    console.print(f"{digits.source}, {options.threads} threads")
    for name in [options.only] if options.only else STUDIES:
        out = Path(f"accuracy-{name}.json")
        console.print(study(name, digits, options.seeds, out, console))


if __name__ == "__main__":
    main()
