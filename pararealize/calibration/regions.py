"""Regions: where the states at an interface lie, so that strange ones are noticed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pararealize.calibration.store import Store
from pararealize.calibration.subject import Subject
from pararealize.ir.calibration import Region
from pararealize.runtime.monitoring.measures import batch_of
from pararealize.runtime.monitoring.region_distance import features

#: Variance of every feature that is added to the one seen, as a share of the mean variance.
RIDGE = 1e-3
#: Significant digits that a saved region keeps.
DIGITS = 6


def regions(subject: Subject, interfaces: Iterable[int], records: Store) -> dict[int, Region]:
    """By interface of this rank, the region of the serial network's states.

    There is none where samples are not told apart, or are fewer than two.
    """
    mine = [j for j in interfaces if j in subject.pieces]
    seen: dict[int, list[Tensor | None]] = {j: [] for j in mine}
    for record in records:
        for j in mine:
            seen[j].append(features(record["states"][j][1], batch_of(record["inputs"])))
    found = {j: region(j, rows) for j, rows in seen.items()}
    return {j: here for j, here in found.items() if here is not None}


def region(interface: int, rows: Iterable[Tensor | None]) -> Region | None:
    """The region of features `[samples, features]`, as far out as the farthest of them."""
    known = [row for row in rows if row is not None]
    every = torch.cat(known) if known else torch.zeros(0, 1)
    if len(every) < 2 or not bool(torch.isfinite(every).all()):
        return None
    centre = every.mean(0)
    spread = torch.cov(every.T).reshape(len(centre), len(centre))
    least = RIDGE * spread.diagonal().mean().clamp(min=1e-30)
    factor = torch.linalg.cholesky(spread + least * torch.eye(len(centre), dtype=spread.dtype))
    whitening = torch.linalg.solve_triangular(
        factor, torch.eye(len(factor)).to(factor), upper=False
    )
    away = ((every - centre) @ whitening.T).norm(dim=1) / len(centre) ** 0.5
    corners = whitening[tuple(torch.tril_indices(len(centre), len(centre)))]
    return Region(interface, _short(centre), _short(corners), float(away.max()))


def _short(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
