"""Features of states, and distances from those that were seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pararealize.calibration.certify import region
from pararealize.ir.calibration import Region
from pararealize.runtime.monitoring.region_distance import (
    MOST,
    WIDTH,
    RegionDistance,
    cosines,
    features,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_features_are_of_means_over_places_and_positions() -> None:
    maps, words = drawn(3, 5, 4, 2), drawn(3, 7, 5)
    assert torch.allclose(features(maps, 3), maps.mean((2, 3)).double() @ cosines(5))
    assert torch.allclose(features(words, 3), words.mean(1).double() @ cosines(5))
    assert torch.allclose(features(drawn(3), 3), drawn(3).double()[:, None] @ cosines(1))
    both = torch.cat((maps.mean((2, 3)), words.mean(1)), 1).double()
    assert torch.allclose(features((maps, torch.tensor([1, 2, 3]), words), 3), both @ cosines(10))


def test_features_are_few_and_of_samples_alone() -> None:
    assert features(drawn(2, 3 * MOST), 2).shape == (2, WIDTH)
    assert features(drawn(2, 5), 3) is None  # the first axis is no batch
    assert features((drawn(2, 5), drawn(1, 5)), 2) is None
    assert features(torch.arange(2), 2) is None
    assert features(drawn(2, 5).bfloat16(), 2).dtype == torch.float64


@pytest.mark.parametrize("count", [1, 5, 33, 64, 100])
def test_waves_are_orthonormal(count: int) -> None:
    """Of a discrete cosine transform of type IV; all of them, or every few."""
    waves = cosines(count)
    gram = waves.T @ waves
    assert torch.allclose(gram, torch.eye(len(gram)).double(), atol=1e-9)


def test_distances_are_mahalanobis() -> None:
    seen = drawn(500, 6) @ drawn(6, 6, seed=1)
    found = region(2, [features(part, len(part)) for part in seen.split(100)])
    known, other = features(seen, 500), drawn(4, 6, seed=2)
    centre, spread = known.mean(0), torch.cov(known.T)
    away = features(other, 4) - centre
    wanted = (away @ torch.linalg.inv(spread) * away).sum(1).div(6).sqrt()
    distances = RegionDistance(found).distances(other, 4)
    assert torch.allclose(distances, wanted, rtol=2e-2)  # a ridge is added to the variances
    assert found.limit == pytest.approx(
        float(RegionDistance(found).distances(seen, 500).max()), 1e-4
    )


def test_what_was_never_seen_is_far() -> None:
    """Features that never varied may not either; they need not be exactly what they were."""
    seen = torch.cat((drawn(50, 3), torch.ones(50, 1)), 1)
    known = RegionDistance(region(1, [features(seen, 50)]))
    odd = torch.stack((seen[0], seen[0] + torch.tensor([0, 0, 0, 5.0]), seen[0] * torch.nan))
    near, far, broken = known.distances(odd, 3).tolist()
    assert near < 3
    assert far > 10
    assert broken == torch.inf
    assert known.distances(drawn(3), 3).tolist() == [torch.inf] * 3  # other features
    assert known.distances(drawn(2, 4), 3).tolist() == [torch.inf] * 3  # samples not told apart


def test_there_is_no_region_of_too_little() -> None:
    assert region(1, []) is None
    assert region(1, [None, None]) is None
    assert region(1, [features(drawn(1, 4), 1)]) is None
    assert region(1, [torch.full((9, 2), torch.nan).double()]) is None
    assert isinstance(region(1, [features(drawn(2, 4), 2)]), Region)
