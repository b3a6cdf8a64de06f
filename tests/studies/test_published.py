"""Nested iteration in the setting of its paper: networks, objective, L-BFGS, and what is kept."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.control import SMOOTH, ControlNet, ControlStep, Rollout, Setting, smooth_relu
from studies.lbfgs import Descent, descend, flat, scaled
from studies.peaks import load_peaks
from studies.published import METHODS, PAPER, SCALES, TIKHONOV, Outcome, Run, kept, runs, table


def made(layers: int = 5, **options: object) -> ControlNet:
    torch.manual_seed(0)
    setting = Setting(**{"width": 4, "scale": 0.7, "ends": 0.7, "horizon": 2.0, **options})
    return ControlNet(layers, setting).double()


def test_the_rectifier_is_smooth_and_joins_its_branches() -> None:
    x = torch.linspace(-0.3, 0.3, 601, dtype=torch.float64, requires_grad=True)
    y = smooth_relu(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    inside = x.detach().abs() < SMOOTH
    parabola = x**2 / (4 * SMOOTH) + x / 2 + SMOOTH / 4
    wanted = torch.where(inside, parabola, functional.relu(x))
    assert torch.allclose(y, wanted, atol=1e-15)
    assert torch.allclose(slope, (x.detach() / (2 * SMOOTH) + 0.5).clamp(0, 1), atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_all_steps_at_once_are_the_steps_and_their_gradients(layers: int) -> None:
    net, x = made(layers), torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    stepped = net.closing(net.steps(smooth_relu(net.opening(x))))
    wanted = torch.autograd.grad(stepped.square().sum(), [x, *net.parameters()])
    found = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    assert torch.allclose(net(x), stepped, atol=1e-14)
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_differences() -> None:
    def rolled(x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        return Rollout.apply(x, weights, biases, 0.3, x.new_empty(7, 2, 5))

    torch.manual_seed(0)
    given = ((2, 5), (3, 2, 2), (3,))
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in given]
    assert torch.autograd.gradcheck(rolled, args)


def test_the_objective_adds_what_keeps_weights_small_and_smooth() -> None:
    x, labels = torch.randn(6, 2, dtype=torch.float64), torch.arange(6) % 5
    plain = made(tikhonov=0.0, smoothness=0.0)
    loss = plain.objective(x, labels)
    assert torch.allclose(loss, functional.cross_entropy(plain(x), labels))
    weighed = made(tikhonov=0.2, smoothness=0.0).objective(x, labels)
    squares = sum(p.square().sum() for p in plain.parameters())
    assert torch.allclose(weighed - loss, 0.1 * squares)
    smooth = made(tikhonov=0.0, smoothness=0.2).objective(x, labels)
    steps = [flat(list(step.parameters())) for step in plain.steps]
    slopes = [((b - a) / plain.dt).square().sum() for a, b in pairwise(steps)]
    assert torch.allclose(smooth - loss, 0.1 * sum(slopes))


def test_first_weights_are_as_large_as_they_are_said_to_be() -> None:
    net = ControlNet(3, Setting(scale=0.0, ends=1e-3))
    steps = [step for step in net.steps if isinstance(step, ControlStep)]
    assert not any(p.any() for step in steps for p in step.parameters())
    assert 0 < net.opening.weight.max() <= 1e-3
    assert len(steps[0].bias) == 1
    assert net.closing.bias.shape == (5,)


def quadratic(scale: Tensor) -> tuple[list[nn.Parameter], object]:
    x = [nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(2).double())]
    return x, lambda: (flat_of(x).square() * scale).sum() / 2


def flat_of(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.flatten() for p in parameters])


def test_a_badly_scaled_quadratic_takes_few_steps() -> None:
    """Gradient descent with steps below 2/100 would need hundreds."""
    x, objective = quadratic(torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0]).double())
    found = descend(x, objective, Descent(60, 1e-8))
    assert flat(x).abs().max() < 1e-8
    assert len(found.losses) < 40
    assert list(found.losses) == sorted(found.losses, reverse=True)
    assert found.work > len(found.losses) - 1


def test_a_quartic_with_coupled_numbers_is_minimised() -> None:
    """Convex, and no sum over single numbers: Σ (x_{i+1} - x_i + 1)⁴ + Σ (x_i - 2)²/2."""
    x = [nn.Parameter(torch.zeros(6, dtype=torch.float64))]
    descend(
        x,
        lambda: (x[0].diff() + 1).pow(4).sum() + (x[0] - 2).square().sum() / 2,
        Descent(200, 1e-9),
    )
    slope = torch.autograd.grad(
        (x[0].diff() + 1).pow(4).sum() + (x[0] - 2).square().sum() / 2, x[0]
    )[0]
    assert slope.norm() < 1e-8


def test_directions_go_down_and_are_newtons_on_a_line() -> None:
    gradient, step = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0])
    assert torch.allclose(scaled(gradient, [(step, 4 * step)]), gradient / 4)
    assert torch.equal(scaled(gradient, []), gradient)


def test_where_nothing_decreases_it_ends_where_it_was() -> None:
    x = [nn.Parameter(torch.tensor([0.0], dtype=torch.float64))]
    found = descend(x, lambda: x[0].abs().sum() + (x[0] - 1e-9).sum() * 0.5, Descent(5, 0.0))
    assert x[0].abs() < 1e-3
    assert len(found.losses) <= 5


def test_there_are_twelve_runs_for_each_of_four_pairs() -> None:
    every = runs(Setting(), 12)
    assert len(every) == 12 * 4 * len(METHODS)
    pairs = {(r.setting.tikhonov, r.setting.scale) for r in every}
    assert pairs == set(product((1e-5, 1e-7), (0.0, 1e-6))) == set(product(TIKHONOV, SCALES))
    assert {depths[-1] for depths in METHODS.values()} == {44}
    assert set(PAPER) == {5, 8}


def test_a_run_is_kept_and_shown(tmp_path: Path) -> None:
    examples, file = load_peaks(50, 50), tmp_path / "kept"
    every = runs(Setting(width=5), 1, 0.02)[:3]
    found = {run: kept(run, examples, file) for run in every}
    assert [len(outcome.levels) for outcome in found.values()] == [1, 2, 3]
    # Work is about equal: 2% of 195 gradients of 44 layers.
    assert all(3 <= outcome.work <= 8 for outcome in found.values())
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    changed = json.loads(lines[0]) | {"work": 7.5}
    file.write_text("\n".join([json.dumps(changed), *lines[1:]]), encoding="utf-8")
    assert kept(every[0], examples, file) == Outcome(found[every[0]].levels, 7.5)
    assert kept(Run("from the start", Setting(width=5), 9, 0.02), examples, None).levels


def test_the_table_has_the_statistics_of_the_paper() -> None:
    accuracies = {"from the start": (80.0, 90.0), "nested, two levels": (90.0, 92.0)}
    found = {
        run: Outcome((accuracies.get(run.method, (50.0, 60.0))[run.seed],), 200.0)
        for run in runs(Setting(width=8), 2)
    }
    shown = " ".join(str(table("Peaks", found, PAPER)).split())
    assert "85.00 85.00 90.00 80.00 5.00 200 90.7" in shown
    assert "91.00 91.00 92.00 90.00 1.00 200 92.3" in shown
