"""Training in phases over depths."""

import pytest
import torch
from torch import nn

from pararealize.models import odenet
from studies.levels import LevelsRecipe, Phase, train
from studies.peaks import load_peaks

RECIPE = LevelsRecipe(work=12, batch=50, rate=0.1, coarse_steps=4)


def make(depth: int) -> nn.Module:
    return odenet(depth, width=4, horizon=2.0, in_features=2, classes=5)


@pytest.mark.parametrize(
    ("phases", "gradients", "work"),
    [
        ((Phase((4,), 1.0),), {4: 12}, 12),
        # Five batches a cycle: four gradients of two layers, and two of four.
        ((Phase((2, 4), 1.0),), {2: 12, 4: 6}, 12),
        ((Phase((2,), 0.5), Phase((4,), 0.5)), {2: 12, 4: 6}, 12),
        # The second phase ends with the cycle in which its six are done.
        ((Phase((2,), 0.5), Phase((2, 4), 0.5)), {2: 20, 4: 4}, 14),
    ],
)
def test_phases_do_their_share_of_the_work(
    phases: tuple[Phase, ...], gradients: dict[int, int], work: float
) -> None:
    outcome = train(make, phases, load_peaks(100, 50), RECIPE)
    assert outcome.gradients == gradients
    assert outcome.work == pytest.approx(work)


@pytest.mark.parametrize("adam", [False, True])
def test_every_phase_starts_where_the_last_one_ended(adam: bool) -> None:
    """Phases learn together what none of them learns alone."""
    made: list[nn.Module] = []

    def noted(depth: int) -> nn.Module:
        torch.manual_seed(depth)
        made.append(make(depth))
        return made[-1]

    recipe = LevelsRecipe(work=24, batch=50, rate=0.02, coarse_steps=4, adam=adam)
    train(noted, (Phase((2,), 0.9), Phase((4,), 0.1)), load_peaks(100, 50), recipe)
    shallow, deep = made[0], made[1]
    for i in range(4):
        moved = deep.steps[i].linear.weight - shallow.steps[i // 2].linear.weight  # type: ignore
        fresh = make(4)
        torch.manual_seed(4)
        fresh = make(4)
        start = fresh.steps[i].linear.weight - shallow.steps[i // 2].linear.weight  # type: ignore
        assert moved.norm() < 0.3 * start.norm()
