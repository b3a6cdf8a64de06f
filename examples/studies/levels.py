"""Levels: train ODE networks in phases, each on one depth or by MG/OPT on several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pararealize.cli.training import score
from pararealize.layers import MultilevelTraining, mgopt, refine
from studies.labelled import Examples


@dataclass(frozen=True)
class Phase:
    """Depths, the last of which is trained, and the share of all the work that it takes."""

    depths: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class LevelsRecipe:
    """How networks are trained: a rate that falls to zero in proportion to the work of a phase.

    ``work`` is in gradient evaluations of the deepest network; of a correction there are
    ``coarse_steps`` steps.
    """

    work: float
    batch: int
    rate: float
    coarse_steps: int = 8
    adam: bool = False
    seed: int = 0

    def optimizer(self, net: nn.Module) -> Optimizer:
        """Adam, or SGD with momentum."""
        if self.adam:
            return torch.optim.Adam(net.parameters(), lr=self.rate)
        return torch.optim.SGD(net.parameters(), lr=self.rate, momentum=0.9)


@dataclass(frozen=True)
class LevelsOutcome:
    """The test accuracy, the work that was done, and gradient evaluations by depth."""

    accuracy: float
    work: float
    gradients: dict[int, int]


def train(
    make: Callable[[int], nn.Module],
    phases: Sequence[Phase],
    examples: Examples,
    recipe: LevelsRecipe,
) -> LevelsOutcome:
    """Phase after phase, each from the weights of the one before, interpolated in depth."""
    torch.manual_seed(recipe.seed)
    batches = examples.batches(recipe.batch, 10**6, recipe.seed)
    net: nn.Module | None = None
    work, gradients = 0.0, dict[int, int]()
    for phase in phases:
        deep = make(phase.depths[-1])
        net = refine(net, deep) if net is not None else deep
        ratio = phase.depths[-1] / phases[-1].depths[-1]
        done = _phase(make, net, phase, batches, recipe, recipe.work * phase.share / ratio)
        work += ratio * done.work
        for depth, count in zip(phase.depths, done.gradients, strict=True):
            gradients[depth] = gradients.get(depth, 0) + count
    assert net is not None
    _, share = score(net, examples.test_inputs, examples.test_labels)
    return LevelsOutcome(share, work, gradients)


def _phase(
    make: Callable[[int], nn.Module],
    net: nn.Module,
    phase: Phase,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: LevelsRecipe,
    budget: float,
) -> MultilevelTraining:
    """MG/OPT until its work is done; with a single depth, the optimizer's steps."""
    spent = [0.0]

    def note(training: MultilevelTraining) -> bool:
        spent[0] = training.work
        return training.work >= budget

    return mgopt(
        lambda depth: net if depth == phase.depths[-1] else make(depth),
        phase.depths,
        lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        batches,
        recipe.optimizer,
        coarse_steps=recipe.coarse_steps if len(phase.depths) > 1 else 1,
        # Stepped before a cycle's work is noted: the rate is that of the cycle before.
        scheduler=lambda optimizer: LambdaLR(optimizer, lambda _: max(0, 1 - spent[0] / budget)),
        on_cycle=note,
    )
