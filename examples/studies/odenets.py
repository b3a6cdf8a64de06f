"""Train ODE networks: Adam, a one-cycle rate, and whatever makes the depth parallel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pararealize.cli.training import OnStep, TrainingOutcome, fit, score
from studies.labelled import Examples

#: What is trained in place of a network, with the same parameters.
Prepare = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class AdamRecipe:
    """How an ODE network is trained: Adam and a one-cycle learning rate.

    ``rate`` is the largest learning rate; images are moved by up to ``shift`` pixels each way;
    ``seed`` decides the order of the examples and their shifts.
    """

    epochs: int = 20
    batch: int = 100
    rate: float = 1e-2
    shift: int = 0
    seed: int = 0


def serial(net: nn.Module) -> nn.Module:
    """The network itself."""
    return net


def ignore(_loss: float) -> None:
    """Report no progress."""


def train(
    net: nn.Module,
    examples: Examples,
    recipe: AdamRecipe,
    prepare: Prepare = serial,
    on_step: OnStep = ignore,
) -> TrainingOutcome:
    """Train ``prepare(net)`` and test it; ``net`` is trained with it, as they share parameters.

    Kingma and Ba, "Adam" (arXiv:1412.6980); Smith and Topin, "Super-Convergence"
    (arXiv:1708.07120).
    """
    prepared = prepare(net)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=recipe.rate, fused=True)
    steps = recipe.epochs * -(-len(examples.train_labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    batches = examples.batches(recipe.batch, recipe.epochs, recipe.seed, recipe.shift)
    losses = fit(prepared, batches, optimizer, schedule, on_step)
    return TrainingOutcome(losses, *score(prepared, examples.test_inputs, examples.test_labels))
