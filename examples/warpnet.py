"""A warped residual network beside the serial and the parareal one: accuracy, time, and error.

A ResNet-29 on 2,000 MNIST digits, pooled to 7 × 7 pixels; WarpNet with the same weights, two
residual units side by side; and the parareal network with n = 2; three seeds:

    python examples/warpnet.py

On other images, not pooled: ``--data cifar10=FOLDER``.

Fok, An, Rashidi and Wang, "Decoupling the Layers in Residual Networks" (ICLR 2018).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from pararealize import models
from pararealize.cli.digits import Digits, smaller
from pararealize.cli.training import Recipe, predict, train
from pararealize.explain.table import Table
from studies.datasets import add_data, read
from studies.running import start, timed_anyway


@dataclass(frozen=True)
class Trained:
    """Test accuracy in percent, and milliseconds a training step and an answer took (medians)."""

    accuracy: float
    step: float
    answer: float


def networks(depth: int, width: int, classes: int, example: Tensor) -> dict[str, nn.Module]:
    """The same first weights for all; the parareal network has coarse ones of its own as well."""
    shape = {"channels": example.shape[1], "classes": classes, "width": width}
    serial = models.resnet(depth, **shape)
    warped = models.warpnet(depth, **shape)
    warped.load_state_dict(serial.state_dict())
    parareal = timed_anyway(serial, 2, example_inputs=(example,))
    return {"serial": serial, "WarpNet, K = 2": warped, "parareal, n = 2": parareal}


def trained(net: nn.Module, digits: Digits, recipe: Recipe) -> Trained:
    """Train and test, with the time between steps."""
    ends = [time.perf_counter()]
    outcome = train(net, digits, recipe, lambda _loss: ends.append(time.perf_counter()))
    steps = [1000 * (end - begin) for begin, end in pairwise(ends)]
    x, answers = digits.test_images[: recipe.batch], []
    for _ in range(11):
        begin = time.perf_counter()
        predict(net, x)
        answers.append(1000 * (time.perf_counter() - begin))
    return Trained(100 * outcome.accuracy, statistics.median(steps), statistics.median(answers))


def error(warped: nn.Module, depth: int, width: int, classes: int, x: Tensor) -> float:
    """How far the warped network's scores lie from the serial network's with its weights."""
    serial = models.resnet(depth, channels=x.shape[1], classes=classes, width=width)
    serial.load_state_dict(warped.state_dict())
    exact = predict(serial, x)
    return float((predict(warped, x) - exact).norm() / exact.norm())


def row(label: str, runs: list[Trained]) -> tuple[str, ...]:
    """Accuracies of every seed and their mean; medians over seeds of the times."""
    each = ", ".join(f"{run.accuracy:.1f}" for run in runs)
    times = (statistics.median(r.step for r in runs), statistics.median(r.answer for r in runs))
    mean = statistics.mean(run.accuracy for run in runs)
    return (label, each, f"{mean:.2f}", *(f"{value:.0f}" for value in times))


def main() -> None:
    """Train every network with every seed; the errors before and after training beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--depth", type=int, default=29)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.2, help="the largest learning rate")
    parser.add_argument("--images", type=int, default=2000, help="that are trained on")
    parser.add_argument("--threads", type=int, default=1)
    add_data(parser, "digits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = read(options.data, limit=options.limit, form="images")
    digits = smaller(examples.as_digits(options.data), 4 if options.data == "digits" else 1)
    images, labels = digits.train_images, digits.train_labels
    few = slice(options.images)
    digits = replace(digits, train_images=images[few], train_labels=labels[few])
    recipe = Recipe(epochs=options.epochs, batch=100, rate=options.rate)
    runs: dict[str, list[Trained]] = {}
    for seed in options.seeds:
        torch.manual_seed(seed)
        size = options.depth, options.width, examples.classes
        nets, shape = networks(*size, images[: recipe.batch]), (*size, digits.test_images)
        before = error(nets["WarpNet, K = 2"], *shape)
        for label, net in nets.items():
            found = trained(net, digits, replace(recipe, seed=seed))
            runs.setdefault(label, []).append(found)
            print(f"seed {seed}, {label}: {found.accuracy:.1f}%", flush=True)
        after = error(nets["WarpNet, K = 2"], *shape)
        print(
            f"seed {seed}: error of the expansion {before:.1%} before training, {after:.1%} after"
        )
    title = f"ResNet-{options.depth}: test accuracy, %, {options.epochs} epochs, and milliseconds"
    columns = ("network", "seeds", "mean", "a step", "100 answers")
    rows = [row(label, found) for label, found in runs.items()]
    print(Table(title, columns, rows, left=("network",)))


if __name__ == "__main__":
    start(main)
