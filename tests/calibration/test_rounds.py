"""Factored layers start from the data, once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

WIDTH, N = 16, 4
QUICK: dict[str, Any] = {"epochs": 0, "batch": 10, "progress": False}


def data(rank: int, seed: int = 1) -> Tensor:
    """Samples in a plane of a few dimensions, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, WIDTH, dtype=torch.float64, generator=generator)
    return 1.0 + torch.randn(50, rank, dtype=torch.float64, generator=generator) @ basis


def network(correction: str = "difference", guess: str = "coarse") -> ParallelNetwork:
    """Linear layers of full rank: on such samples every state lies in a plane as well."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(9))).double().eval()
    method = Parareal("factored", correction, guess=guess, coarse_rank=0.25)
    return pararealize(model, N, method=method, example_inputs=(data(1),)).eval()


@pytest.mark.parametrize(("rank", "exact"), [(3, True), (4, True), (8, False)])
def test_what_never_varies_costs_no_rank(rank: int, exact: bool) -> None:
    net = network()
    before = net.report
    net.calibrate(data(rank), **QUICK)
    steps = [fit.step_error for fit in net.plan.calibration.chosen.fits if fit.step_error]
    if exact:
        assert max(steps) <= 1e-10
        assert net.plan.calibration.chosen.sweeps[0].error <= 1e-10
    else:
        assert min(steps) > 1e-3
    assert before is not net.report


def test_calibrated_networks_are_not_started_again() -> None:
    net = network()
    net.calibrate(data(3), **QUICK)
    kept = copy.deepcopy(net.coarse.state_dict())
    net.calibrate(data(3, seed=2), **QUICK)
    assert all(torch.equal(kept[name], value) for name, value in net.coarse.state_dict().items())


@pytest.mark.parametrize("correction", ["difference", "residual"])
@pytest.mark.parametrize("guess", ["coarse", "network"])
def test_it_is_fitted_like_any_other(correction: str, guess: str) -> None:
    net = network(correction, guess)
    kept = copy.deepcopy(net.coarse.state_dict())
    net.calibrate(data(6), **{**QUICK, "epochs": 2})
    found = net.plan.calibration.chosen
    assert found.kind == "factored"
    assert any(not torch.equal(kept[name], v) for name, v in net.coarse.state_dict().items())
    x = data(6, seed=3)
    assert net(x).isfinite().all()
