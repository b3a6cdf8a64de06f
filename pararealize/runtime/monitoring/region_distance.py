"""Region distance: how far a state lies from those that a network was calibrated with."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor

from pararealize.ir.calibration import Region
from pararealize.runtime.monitoring.answers import MAP
from pararealize.runtime.monitoring.measures import apart
from pararealize.runtime.values.pytree import tensors_of

#: Most features of a state.
WIDTH = 64
#: Most means of a state that features are made of: more are thinned out evenly.
MOST = 4096


def features(state: Any, batch: int) -> Tensor | None:
    """At most :data:`WIDTH` numbers of every sample of a state, float64 on the CPU.

    They are cosine sums over the channels' means: over the pixels of ``[batch, channels, height,
    width]``, over the positions of ``[batch, positions, width]``. ``None`` where samples are not
    the first axis of every leaf.
    """
    tensors = (leaf.detach() for leaf in tensors_of(state) if leaf.is_floating_point())
    found = [leaf for leaf in tensors if leaf.numel() > 0]
    if not found or not apart(found, batch):
        return None
    means = torch.cat([_means(leaf).to(found[0].device) for leaf in found], dim=1)
    means = means[:, :: -(-means.shape[1] // MOST)].cpu().double()
    return means @ cosines(means.shape[1])


def _means(leaf: Tensor) -> Tensor:
    """[batch, channels], in single precision at least."""
    wide = leaf if leaf.dtype == torch.float64 else leaf.float()
    if wide.dim() >= MAP:
        return wide.flatten(2).mean(2)
    return wide.mean(1) if wide.dim() == MAP - 1 else wide.reshape(len(wide), -1)


@lru_cache(maxsize=64)
def cosines(count: int) -> Tensor:
    """Orthonormal waves over so many channels `[count, features]`, from slow to fast."""
    k = min(count, WIDTH)
    waves = (torch.arange(k, dtype=torch.float64) * count / k).floor()
    channels = torch.arange(count, dtype=torch.float64) + 0.5
    angles: Tensor = torch.pi / count * channels[:, None] * (waves + 0.5)
    return math.sqrt(2 / count) * angles.cos()


@final
class RegionDistance:
    """Measures distances from the centre of a region where states lay in calibration."""

    def __init__(self, region: Region) -> None:
        self.interface = region.interface
        self._centre = torch.tensor(region.centre, dtype=torch.float64)
        k = len(region.centre)
        self._whitening = torch.zeros(k, k, dtype=torch.float64)
        rows, columns = torch.tril_indices(k, k)
        self._whitening[rows, columns] = torch.tensor(region.whitening, dtype=torch.float64)

    def distances(self, state: Any, batch: int) -> Tensor:
        """‖W (φ - c)‖ / √k of every sample; infinite where it is no number."""
        found = features(state, batch)
        if found is None or found.shape[1] != len(self._centre):
            return torch.full((batch,), torch.inf, dtype=torch.float64)
        away = (found - self._centre) @ self._whitening.T
        size: Tensor = away.norm(dim=1) / len(self._centre) ** 0.5
        return size.nan_to_num(nan=torch.inf)
