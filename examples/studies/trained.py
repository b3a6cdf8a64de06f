"""Trained networks to convert: from scratch in minutes on one core, once for all studies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pararealize import models
from pararealize.cli.digits import load_digits, smaller
from pararealize.cli.training import Recipe, TrainingOutcome, descend, score
from pararealize.errors import ModelSpecError, StorageError
from studies import checkpoint, odenets
from studies.checkpoint import Checkpoint
from studies.deepen import refine
from studies.labelled import Examples
from studies.odenets import AdamRecipe, ignore
from studies.stochastic_depth import stochastic
from studies.texts import VOCABULARY, load_texts


@dataclass(frozen=True)
class Trained:
    """A network in eval mode, the data it was trained and tested on, and what that came to.

    ``seconds`` is the processor time of training and one test, that of the network it was refined
    from included; ``loss`` (the mean cross-entropy, in nats) and ``accuracy`` are those on the test
    data.
    """

    model: nn.Module
    data: Examples
    seconds: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Study:
    """A network, the data it learns, and how: SGD for convolutions, Adam for transformers.

    ``drop`` is how often samples skip the last residual branch in training, earlier ones less;
    ``refines`` names the study whose trained network it starts from, a shallower one.
    """

    make: Callable[[], nn.Module]
    data: Callable[[], Examples]
    recipe: Recipe | AdamRecipe
    drop: float = 0.0
    refines: str = ""

    @property
    def said(self) -> str:
        """How it is trained, to tell weights of one way from those of another."""
        said = f"{self.recipe!r}, drop={self.drop}"
        if not self.refines:
            return said
        return f"{said}, refines {self.refines}: {STUDIES[self.refines].said}"


def trained(name: str, seed: int = 0, cache: Path | None = None) -> Trained:
    """The network ``name`` of :data:`STUDIES`, trained from scratch or read back from ``cache``.

    The ``seed`` decides the weights and the order of the examples; the split of the data is
    always the same. The folder ``cache`` keeps the weights and figures of every name and seed.
    The caller's random state does not change.

    Raises:
        ModelSpecError: no such network.
        StorageError: a file in the folder is damaged, or of another recipe.

    """
    if name not in STUDIES:
        raise ModelSpecError(
            f"no trained network is called {name!r}: choose one of {', '.join(STUDIES)}."
        )
    study = STUDIES[name]
    return run(replace(study, recipe=replace(study.recipe, seed=seed)), name, cache)


def run(study: Study, name: str, cache: Path | None) -> Trained:
    """What a study trains, kept in ``cache`` under its name and seed."""
    path = None if cache is None else cache / f"{name}-{study.recipe.seed}"
    data = study.data()
    # Drawing weights, shuffling and dropout are not to change what the caller draws next.
    with torch.random.fork_rng(devices=[]):
        found = None if path is None else checkpoint.read(path, study.said)
        if found is None:
            start = trained(study.refines, study.recipe.seed, cache) if study.refines else None
            found = _train(study, data, start)
            if path is not None:
                checkpoint.write(path, found)
        # A new network even after training, for the memory format is to be the same.
        return Trained(_filled(study, found), data, found.seconds, found.loss, found.accuracy)


def _train(study: Study, data: Examples, start: Trained | None) -> Checkpoint:
    torch.manual_seed(study.recipe.seed)
    model = study.make()
    if start is not None:
        refine(model, start.model)
    begin = time.process_time()
    with stochastic(model, study.drop):
        outcome = _fit(model, data, study.recipe)
    seconds = time.process_time() - begin + (start.seconds if start is not None else 0.0)
    weights = model.state_dict()
    return Checkpoint(weights, study.said, seconds, outcome.test_loss, outcome.accuracy)


def _fit(model: nn.Module, data: Examples, recipe: Recipe | AdamRecipe) -> TrainingOutcome:
    if isinstance(recipe, AdamRecipe):
        return odenets.train(model, data, recipe)
    batches = data.batches(recipe.batch, recipe.epochs, recipe.seed, recipe.shift)
    losses = descend(model, batches, recipe.steps(len(data.train_labels)), recipe, ignore)
    return TrainingOutcome(losses, *score(model, data.test_inputs, data.test_labels))


def _filled(study: Study, found: Checkpoint) -> nn.Module:
    model = study.make().eval()
    try:
        model.load_state_dict(found.weights)
    except RuntimeError as error:
        raise StorageError(
            f"the weights kept for {type(model).__name__} are of another network: "
            f"empty the cache folder. {error}"
        ) from error
    return model


def _digits(size: int | None = None, pooling: int = 1) -> Examples:
    return Examples.of_digits(smaller(load_digits(size), pooling))


def _resnet(depth: int, recipe: Recipe, refines: str = "") -> Study:
    """Digits of 14x14 pixels, to save time."""
    return Study(
        lambda: models.resnet(depth, channels=1, width=8),
        lambda: _digits(pooling=2),
        recipe,
        drop=0.25,
        refines=refines,
    )


def _deeper(depth: int) -> Study:
    """A few epochs from ResNet-56, as a deep network takes many from scratch."""
    return _resnet(depth, Recipe(epochs=5, batch=100, rate=0.05), refines="resnet56")


STUDIES = {
    "resnet56": _resnet(56, Recipe(epochs=60, batch=100)),
    "vit": Study(models.vit, _digits, AdamRecipe(epochs=100, batch=50, rate=2e-3, shift=2), 0.3),
    "lm": Study(
        lambda: models.causal_lm(len(VOCABULARY), width=64),
        lambda: Examples.of_texts(load_texts()),
        AdamRecipe(epochs=20, batch=32, rate=3e-3),
        drop=0.5,
    ),
    "vgg16": Study(
        lambda: models.vgg16(channels=1, classes=10, head="small", width=16, batch_norm=True),
        lambda: _digits(size=32),
        Recipe(epochs=60, batch=100, rate=0.1, shift=2),
    ),
    "resnet164": _deeper(164),
    "resnet326": _deeper(326),
    "resnet650": _deeper(650),
    "resnet1001": _deeper(1001),
}


def depths(values: Sequence[int]) -> int | tuple[int, ...]:
    """``coarse_depth``: one number for all subnetworks, or several, one for each."""
    return tuple(values) if len(values) > 1 else values[0]
