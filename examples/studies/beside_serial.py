"""Beside serial: networks trained from one seed after another, each beside the serial network.

A seed draws all weights, the order of the images and their shifts. All networks of a seed have the
same, so that differences are taken seed by seed and then averaged.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pararealize import ParallelNetwork, Parareal
from pararealize.cli.digits import Digits
from pararealize.cli.training import Recipe, TrainingOutcome, train
from pararealize.explain.table import Table
from studies import odenets
from studies.labelled import Examples
from studies.odenets import AdamRecipe, ignore
from studies.running import timed_anyway


@dataclass(frozen=True)
class Variant:
    """A network in ``n`` subnetworks, by options that are not the defaults; ``n`` = 1 is serial."""

    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.n == 1:
            return "serial"
        return ", ".join([f"n = {self.n}", *(f"{k} = {v}" for k, v in self.options.items())])


def options_of(text: str) -> dict[str, Any]:
    """Options written as ``guess=coarse,iterations=2``."""
    pairs = (part.partition("=")[::2] for part in text.split(",") if part)
    return {name.strip(): _value(text) for name, text in pairs}


def _value(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


@dataclass(frozen=True)
class Score:
    """Test accuracy in percent, test loss, and the mean training loss of every epoch."""

    accuracy: float
    loss: float
    epochs: tuple[float, ...]


def trained(
    make: Callable[[], nn.Module], variant: Variant, digits: Digits, recipe: Recipe | AdamRecipe
) -> Score:
    """What a network comes to that is drawn and trained from the recipe's seed."""
    outcome = _outcome(drawn(make, variant, digits, recipe), digits, recipe)
    steps = len(outcome.losses) // recipe.epochs
    starts = range(0, len(outcome.losses), steps)
    epochs = tuple(statistics.mean(outcome.losses[i : i + steps]) for i in starts)
    return Score(100 * outcome.accuracy, outcome.test_loss, epochs)


def drawn(
    make: Callable[[], nn.Module], variant: Variant, digits: Digits, recipe: Recipe | AdamRecipe
) -> nn.Module:
    """The network of a variant, with the weights of the recipe's seed."""
    torch.manual_seed(recipe.seed)
    net = make()
    if variant.n == 1:
        return net
    example = (digits.train_images[: recipe.batch],)
    method = Parareal(**{"seed": recipe.seed, **variant.options})
    return timed_anyway(net, variant.n, example_inputs=example, method=method)


def price(net: nn.Module) -> tuple[str, str, str]:
    """Parameters that a network has more than the serial one, its coarse work, its speed.

    The first in percent, the second as a share of the heaviest subnetwork and the third over the
    serial network, as predicted for one device a subnetwork.
    """
    if not isinstance(net, ParallelNetwork):
        return "–", "–", "1"
    plan = net.plan
    added = 100 * plan.added_parameters / plan.parameters
    return f"{added:.1f}%", f"{plan.coarse_share:.2f}", f"{plan.speedup:.2f}"


def _outcome(net: nn.Module, digits: Digits, recipe: Recipe | AdamRecipe) -> TrainingOutcome:
    if isinstance(recipe, AdamRecipe):
        return odenets.train(net, Examples.of_digits(digits), recipe)
    return train(net, digits, recipe, ignore)


def kept(file: Path, compute: Callable[[], Score]) -> Score:
    """The score in a file, where there is one; else it is computed and written to it."""
    if not file.exists():
        file.write_text(json.dumps(asdict(compute())))
    found = json.loads(file.read_text())
    return Score(found["accuracy"], found["loss"], tuple(found["epochs"]))


def table(
    title: str,
    serial: str,
    found: Mapping[str, Sequence[Score]],
    prices: Mapping[str, tuple[str, str, str]],
) -> Table:
    """By network: every seed's accuracy, their mean ± spread, its distance from serial, and losses.

    And what :func:`price` says of it.

    A spread is the standard deviation over seeds; behind the distance from the network ``serial``
    stands the standard error of its mean: what is below twice that is noise.
    """
    rows = []
    for label, scores in found.items():
        values = [score.accuracy for score in scores]
        behind = [a.accuracy - b.accuracy for a, b in zip(scores, found[serial], strict=True)]
        error = spread(behind) / math.sqrt(len(behind))
        each = ", ".join(f"{value:.1f}" for value in values)
        mean = f"{statistics.mean(values):.2f} ± {spread(values):.2f}"
        beside = "–" if label == serial else f"{statistics.mean(behind):+.2f} ± {error:.2f}"
        test = statistics.mean(score.loss for score in scores)
        last = statistics.mean(score.epochs[-1] for score in scores)
        rows.append((label, each, mean, beside, f"{test:.3f}", f"{last:.3f}", *prices[label]))
    columns = ("network", "seeds", "mean", "mean - serial", "test loss", "last epoch's loss")
    priced = ("parameters added", "coarse work", "predicted speed")
    return Table(title, (*columns, *priced), rows, left=("network",))


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; of one value 0."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
