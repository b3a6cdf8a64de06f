"""Weights of an estimate, and how well it predicts."""

from __future__ import annotations

import pytest
import torch

from pararealize.calibration.certify import Seen, _weigh, nonnegative, rank_correlation
from pararealize.ir.calibration import Fitting, Region


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


def seen(true: torch.Tensor, outputs: torch.Tensor, swaps: torch.Tensor | None = None) -> Seen:
    return Seen(table(len(true)), table(len(true)), true, outputs, swaps)


def test_estimates_cover_errors_and_rank_them() -> None:
    jumps = table()
    noise = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    true = (jumps @ torch.tensor([0.1, 0.0, 0.3]).double()) * (0.5 + noise)
    outputs = torch.zeros(400, 5).double()
    outputs[:, 2] = 1.0
    found = _weigh(2, (1, 2, 4), {}, seen(true, outputs), Fitting(above="warn"))
    assert (found.sweeps, found.above, found.margin) == (2, "warn", None)
    assert set(found.weights) == {1, 2, 4}
    assert found.coverage >= 0.97  # 99% where it was made
    assert found.correlation > 0.6
    estimates = jumps @ torch.tensor([found.weights[j] for j in (1, 2, 4)]).double()
    assert found.limit == pytest.approx(float(estimates[::2].max()))
    assert found.doubted == float((estimates > found.limit)[1::2].double().mean())


def test_margins_and_regions_leave_most_samples_in_no_doubt() -> None:
    """Some errors swap classes by 0.1; two classes are 0.2 apart in a share of answers."""
    true = table().sum(1)
    outputs = torch.stack((true, true - 1), 1)
    outputs[1::20, 1] += 0.8
    swaps = torch.full((400,), 0.1).double()
    known = {j: Region(j, (0.0,), (1.0,), 0.0) for j in (1, 4)}
    found = _weigh(1, (1, 2, 4), known, seen(true, outputs, swaps), Fitting())
    assert found.margin == pytest.approx(0.4)
    away = table()
    for here, column in zip(found.regions, (0, 2), strict=True):
        share = float((away[::2, column] > here.limit).double().mean())
        assert 0.01 <= share <= 0.02  # 3% for both
    outside = [away[:, i] > here.limit for i, here in zip((0, 2), found.regions, strict=True)]
    estimates = table() @ torch.tensor([found.weights[j] for j in (1, 2, 4)]).double()
    assert found.usual == pytest.approx(float(estimates[::2].median()), rel=1e-6)
    times = (estimates / found.usual).clamp(min=1)
    close = outputs[:, 0] - outputs[:, 1] <= found.margin * times
    wanted = outside[0] | outside[1] | close | (estimates > found.limit)
    assert found.doubted == float(wanted[1::2].double().mean()) > 0.1


def test_texts_are_to_be_as_sure_of_their_characters_as_nearly_all_were() -> None:
    true = table().sum(1)
    scores = 8 * torch.rand(400, 6, 5, generator=torch.Generator().manual_seed(4)).double()
    found = _weigh(1, (1, 2, 4), {}, seen(true, scores), Fitting())
    chances = scores[::2].softmax(2)
    entropy = -(chances * chances.log()).sum(2).mean(1)
    assert found.unsure == pytest.approx(float(entropy.quantile(0.99)), rel=1e-6)
    assert found.margin is None
    plain = _weigh(1, (1, 2, 4), {}, seen(true, scores[:, 0]), Fitting())
    assert plain.unsure is None


def test_limits_are_those_asked_for_and_above_rounding() -> None:
    true, outputs = 1e-15 * table(10).sum(1), torch.ones(10, 2).double()
    known = {1: Region(1, (0.0,), (1.0,), 0.0)}
    exact = seen(true, outputs, 0 * true)
    found = _weigh(1, (1, 2, 3), known, exact, Fitting())
    assert found.limit == 1e-6
    assert (found.margin, found.regions) == (None, ())  # nothing can swap
    assert found.doubted == 0
    assert _weigh(1, (1, 2, 3), known, exact, Fitting(limit=1e-20)).doubted == 1


def test_ranks_are_correlated() -> None:
    a = torch.tensor([1.0, 2.0, 30.0, 4.0])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, torch.ones(4)) == 0
    assert rank_correlation(a[:1], a[:1]) == 0
