"""Peaks: points of the plane, labelled by the level set of MATLAB's `peaks` they lie in."""

from __future__ import annotations

import torch
from torch import Tensor

from studies.labelled import Examples

CLASSES = 5

#: The square is [-EDGE, EDGE]².
EDGE = 3.0


def load_peaks(train: int = 5000, test: int = 2000, *, seed: int = 0) -> Examples:
    """Draw points of [-3, 3]², as many of every class, for training and for testing.

    A class is one of five intervals of equal length between the least and the largest value of
    :func:`peaks`; within it points are uniform. Points are float32 `[count, 2]`, labels int64
    `[count]`; where five does not divide a count, the first classes have one point more.

    Haber and Ruthotto, "Stable Architectures for Deep Neural Networks" (arXiv:1705.03341).
    """
    generator = torch.Generator().manual_seed(seed)
    return Examples(*_draw(train, generator), *_draw(test, generator))


def peaks(points: Tensor) -> Tensor:
    """MATLAB's `peaks(x, y)` of points `[..., 2]`, as `[...]`.

    `3 (1 - x)² e^(-x² - (y + 1)²) - 10 (x / 5 - x³ - y⁵) e^(-x² - y²) - e^(-(x + 1)² - y²) / 3`.
    """
    x, y = points.unbind(-1)
    return (
        3 * (1 - x) ** 2 * torch.exp(-(x**2) - (y + 1) ** 2)
        - 10 * (x / 5 - x**3 - y**5) * torch.exp(-(x**2) - y**2)
        - torch.exp(-((x + 1) ** 2) - y**2) / 3
    )


def levels(points: Tensor) -> Tensor:
    """The class `[...]` of points `[..., 2]`."""
    side = torch.linspace(-EDGE, EDGE, 256)
    least, most = peaks(torch.cartesian_prod(side, side)).aminmax()
    share = (peaks(points) - least) / (most - least)
    # Between the points of the grid lie values a little beyond its extremes.
    return (share * CLASSES).floor().long().clamp(0, CLASSES - 1)


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points `[count, 2]` and labels `[count]`, shuffled."""
    points = torch.cat([_members(label, count, generator) for label in range(CLASSES)])
    points = points[torch.randperm(count, generator=generator)]
    return points, levels(points)


def _members(label: int, count: int, generator: torch.Generator) -> Tensor:
    """The share of this class in `count` points, by rejection."""
    wanted = count // CLASSES + (label < count % CLASSES)
    found = torch.empty(0, 2)
    while len(found) < wanted:
        points = EDGE * (2 * torch.rand(4096, 2, generator=generator) - 1)
        found = torch.cat([found, points[levels(points) == label]])
    return found[:wanted]
