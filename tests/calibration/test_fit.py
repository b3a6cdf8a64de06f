"""Fitting to a linear map, whose best fit is known; in float64."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pararealize.calibration.fit import Errors, Fitter, Sample, Samples, fit, measure, squared
from pararealize.ir.calibration import Fitting
from pararealize.propagators.registered import Registered
from pararealize.runtime.monitoring.answers import divergence

WIDTH = 3


def linear(seed: int, *, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(WIDTH, WIDTH, bias=bias).double()


def fitter(module: nn.Module, *, sweeps: bool, corrects: bool, residual: bool = False) -> Fitter:
    part = Registered(nn.ModuleDict({"1": module}), "1", "G")
    given: dict[str, Any] = {"sweeper": part if sweeps else None}
    return Fitter(module, **given, corrector=part if corrects else None, residual=residual)


def samples(target: nn.Module, count: int = 8) -> Samples:
    def sample(seed: int) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        state, guess = torch.randn(2, 20, WIDTH, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            return Sample(state, target(state), {}, guess, target(guess))

    every = [partial(sample, seed) for seed in range(count + 2)]
    return Samples(every[:count], every[count:])


def no_progress() -> None:
    pass


def run(here: Fitter, data: Samples, **options: Any) -> Errors:
    return fit(here, data, Fitting(**{"epochs": 40, **options}), 0, no_progress)


@pytest.mark.parametrize("residual", [False, True])
def test_a_linear_map_is_found(residual: bool) -> None:
    target, module = linear(0), linear(1, bias=not residual)
    here = fitter(module, sweeps=not residual, corrects=True, residual=residual)
    data = samples(target)
    before = measure(here, data.held_out)
    step, response = run(here, data, rate=1e-2)
    assert (step is None) == residual
    assert response < 0.02 * before[1]
    assert torch.allclose(module.weight, target.weight, atol=2e-2)
    assert measure(here, data.held_out) == (step, response)  # the weights kept are the best


def test_misfits_are_relative_errors_by_hand() -> None:
    target, module = linear(0), linear(1)
    data = samples(target, 2)
    here = fitter(module, sweeps=True, corrects=True)
    state, guess = (
        torch.cat([getattr(r(), name) for r in data.held_out]) for name in ("state", "guess")
    )
    with torch.no_grad():
        step = (module(state) - target(state)).norm() / target(state).norm()
        jump = target(state) - target(guess)
        response = (module(state) - module(guess) - jump).norm() / jump.norm()
    # Squares are added up in single precision.
    assert measure(here, data.held_out) == pytest.approx((float(step), float(response)), rel=1e-5)


def test_answers_of_the_head_count_as_well() -> None:
    """Where it gives scores: the last subnetwork is fitted to what the network answers."""
    target, module = linear(0), linear(1)
    (read,) = samples(target, 1).fitted
    head = Registered(nn.ModuleDict({"1": linear(2)}), "1", "head")
    blind = fitter(module, sweeps=False, corrects=True)
    found = replace(blind, head=head).misfit(read())
    sample = read()
    reached = sample.guessed + module(sample.state) - module(sample.guess)
    wanted = divergence(linear(2)(reached), linear(2)(sample.result))
    assert wanted is not None
    assert found.answers.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert found.loss.item() > (found.response / found.jumps + wanted).item()
    assert blind.misfit(read()).answers == 0


def test_what_is_fitted_is_all_that_changes() -> None:
    """Not the head that the last subnetwork is seen through."""
    target, module, head = linear(0), linear(1), linear(2)
    part = Registered(nn.ModuleDict({"1": head}), "1", "head")
    plain = fitter(module, sweeps=False, corrects=True)
    here = Fitter(module, None, plain.corrector, head=part)
    kept = [p.clone() for p in head.parameters()]
    run(here, samples(target), epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(kept, head.parameters(), strict=True))
    assert all(p.grad is None for p in (*head.parameters(), *module.parameters()))


def test_frozen_weights_are_fitted_where_all_are() -> None:
    data = samples(linear(0))
    module = linear(1).requires_grad_(requires_grad=False)
    before = module.weight.clone()
    run(fitter(module, sweeps=True, corrects=False), data, epochs=1)
    assert not torch.equal(module.weight, before)
    assert not module.weight.requires_grad
    module.weight.requires_grad_()
    bias = module.bias.clone()
    run(fitter(module, sweeps=True, corrects=False), data, epochs=1)
    assert torch.equal(module.bias, bias)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 3}, 24),
        ({"epochs": 3, "steps": 10}, 10),
        ({"epochs": 0}, 0),
        ({"epochs": 3, "tolerance": 1e3}, 8),  # after an epoch it is good enough
    ],
)
def test_steps_and_tolerance_end_it(options: dict[str, Any], steps: int) -> None:
    here, taken = fitter(linear(1), sweeps=True, corrects=False), Counter[str]()
    fit(here, samples(linear(0)), Fitting(**options), 0, lambda: taken.update(["step"]))
    assert taken["step"] == steps


def test_a_divergent_fit_changes_nothing() -> None:
    module = linear(1)
    before = module.weight.clone()
    data = samples(linear(0))
    errors = run(fitter(module, sweeps=True, corrects=False), data, rate=1e6, epochs=2)
    assert torch.equal(module.weight, before)
    assert errors == measure(fitter(module, sweeps=True, corrects=False), data.held_out)


def test_squares_are_of_all_numbers() -> None:
    assert float(squared((torch.tensor([3.0]), torch.tensor([2]), torch.tensor([[4.0]])))) == 25
