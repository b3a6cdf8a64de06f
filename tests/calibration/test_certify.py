"""Weights of an estimate, and how well it predicts."""

from __future__ import annotations

import pytest
import torch

from pararealize.calibration.certify import _weigh, nonnegative, rank_correlation
from pararealize.ir.calibration import Fitting


def table(samples: int = 400) -> torch.Tensor:
    return torch.rand(samples, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_weights_are_found_and_none_is_negative() -> None:
    jumps = table()
    wanted = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    assert torch.allclose(nonnegative(jumps, jumps @ wanted), wanted, atol=1e-6)
    found = nonnegative(jumps, jumps @ torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    assert bool((found >= 0).all())
    assert float(found[1]) == 0
    assert nonnegative(jumps, -jumps.sum(1)).tolist() == [1, 1, 1]  # none helps: each counts


def test_estimates_cover_errors_and_rank_them() -> None:
    jumps = table()
    noise = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    true = (jumps @ torch.tensor([0.1, 0.0, 0.3]).double()) * (0.5 + noise)
    outputs = torch.zeros(400, 5).double()
    outputs[:, 2] = 1.0
    found = _weigh(2, {0: 1, 1: 2, 2: 4}, jumps, true, outputs, Fitting(above="warn"))
    assert (found.sweeps, found.above, found.margins) == (2, "warn", True)
    assert set(found.weights) == {1, 2, 4}
    assert found.coverage >= 0.97  # 99% where it was made
    assert found.correlation > 0.6
    estimates = jumps @ torch.tensor([found.weights[j] for j in (1, 2, 4)]).double()
    assert found.limit == pytest.approx(float(estimates[::2].max()))
    swaps = 2**0.5 * estimates >= 1  # the margin of every answer is its size
    judged = ((estimates > found.limit) | swaps)[1::2]
    assert found.doubted == pytest.approx(float(judged.double().mean()))


def test_limits_are_those_asked_for_and_above_rounding() -> None:
    jumps, outputs = table(10), torch.ones(10, 1).double()
    true = 1e-15 * jumps.sum(1)
    found = _weigh(1, {0: 1, 1: 2, 2: 3}, jumps, true, outputs, Fitting())
    assert found.limit == 1e-6
    assert not found.margins
    assert found.doubted == 0
    assert _weigh(1, {0: 1, 1: 2, 2: 3}, jumps, true, outputs, Fitting(limit=1e-20)).doubted == 1


def test_ranks_are_correlated() -> None:
    a = torch.tensor([1.0, 2.0, 30.0, 4.0])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, torch.ones(4)) == 0
    assert rank_correlation(a[:1], a[:1]) == 0
