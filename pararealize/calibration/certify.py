"""Certify: from the jumps of the last sweep an error is estimated; strange states are noticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pararealize.calibration.observe import Observed, Store
from pararealize.calibration.strides import piece
from pararealize.calibration.subject import Evaluation, Subject
from pararealize.ir.calibration import Certificate, Fitting, Region
from pararealize.ir.schedule import Watch
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.answers import entropies, errors, swaps
from pararealize.runtime.monitoring.measures import Measure, batch_of, tables
from pararealize.runtime.monitoring.region_distance import RegionDistance, features
from pararealize.runtime.monitoring.rules import answer, doubtful, estimate

#: Share of samples whose true error an estimate has to cover where it is made, and that are as sure
#: of their answers.
COVER = 0.99
#: Times the scores of classes move against each other as far as in that share of samples: answers
#: closer than that are doubted, for inputs of other kinds have larger errors. Of strange images up
#: to 2.8 times were needed to doubt every answer that differed.
CAUTION = 4.0
#: Share of the samples calibrated with that may be doubted because a state of theirs is unusual.
UNUSUAL = 0.03
#: Relative errors below which no answer is doubted unless asked for: those of rounding.
LEAST = 1e-6
#: Rounds of coordinate descent for non-negative weights.
ROUNDS = 200
#: Variance of every feature that is added to the one seen, as a share of the mean variance.
RIDGE = 1e-3
#: Significant digits that a saved region keeps.
DIGITS = 6


@dataclass(frozen=True)
class Seen:
    """What the sweeps made of samples: one row each, one column an interface.

    ``true`` are the errors of the ``outputs``, ``swaps`` how far the scores of classes moved
    against each other, where they are such.
    """

    jumps: Tensor
    distances: Tensor
    true: Tensor
    outputs: Tensor
    swaps: Tensor | None

    def __getitem__(self, rows: slice) -> Seen:
        """Some of the samples."""
        parts: dict[str, Any] = {k: v if v is None else v[rows] for k, v in vars(self).items()}
        return Seen(**parts)


def certify(
    subject: Subject,
    parts: Mapping[Target, Propagator],
    iterations: int,
    observed: Observed,
    options: Fitting,
) -> Certificate | None:
    """How to estimate errors after so many sweeps; ``None`` where none leaves a jump.

    Regions are those of the samples that coarse networks were fitted to. Weights and limits come
    from one half of the held-out samples, and are judged on the other.
    """
    schedule = subject.schedule(iterations)
    last = max((watch.sweep for watch in schedule.watches), default=-1)
    if last < 0:
        return None
    found = (watch for watch in schedule.watches if watch.sweep == last)
    watches = {watch.interface: watch for watch in sorted(found, key=lambda w: w.interface)}
    known = subject.together(regions(subject, watches, observed.fitted))
    run = subject.run(replace(schedule, watches=tuple(watches.values())), parts)
    seen = _seen(subject, run, watches, known, observed.held_out)
    return _weigh(last + 1, list(watches), known, seen, options)


def _seen(
    subject: Subject,
    run: Evaluation,
    watches: Mapping[int, Watch],
    known: Mapping[int, Region],
    records: Store,
) -> Seen:
    near = {(watches[j].sweep, j): RegionDistance(here).distances for j, here in known.items()}
    rows: list[tuple[Tensor | None, ...]] = []
    for record in records:
        output, pairs = run(record["inputs"])
        found, serial = answer(output), answer(record["output"])
        own = tables(list(pairs), list(pairs.values()), batch_of(record["inputs"]), near)
        each = subject.together({w.interface: t for w, t in zip(pairs, own, strict=True)})
        every = [Measure(w.sweep, j, *each[j]) for j, w in watches.items()]
        jumps = torch.stack([m.relative for m in every], 1)
        distances = torch.stack([m.distances for m in every], 1)
        rows.append((jumps, distances, errors(found, serial), found, swaps(found, serial)))
    columns = [[p.cpu() for p in column if p is not None] for column in zip(*rows, strict=True)]
    joined: list[Any] = [torch.cat(column) if column else None for column in columns]
    return Seen(*joined)


def _weigh(
    sweeps: int,
    interfaces: Sequence[int],
    known: Mapping[int, Region],
    seen: Seen,
    options: Fitting,
) -> Certificate:
    fitted, judged = seen[0::2], seen[1 if len(seen.true) > 1 else 0 :: 2]
    weights = nonnegative(fitted.jumps, fitted.true)
    sums = (fitted.jumps @ weights).clamp(min=1e-30)
    weights = weights * torch.quantile(fitted.true / sums, COVER).clamp(min=1e-12)
    pairs = {j: float(weight) for j, weight in zip(interfaces, weights, strict=True)}
    limit = options.limit or max(LEAST, float((fitted.jumps @ weights).max()))
    certificate = Certificate(sweeps, pairs, limit, options.above)
    if float(fitted.true.max()) > LEAST:  # else it is exact, whatever the input
        certificate = replace(
            certificate,
            margin=None if fitted.swaps is None else CAUTION * _covering(fitted.swaps),
            unsure=None if (found := entropies(fitted.outputs)) is None else _covering(found),
            usual=float((fitted.jumps @ weights).median()),
            regions=_bounded(known, interfaces, fitted),
        )
    return _judged(certificate, interfaces, judged)


def _covering(values: Tensor) -> float:
    """What few of the samples exceed."""
    return float(torch.quantile(values, COVER))


def _bounded(
    known: Mapping[int, Region], interfaces: Sequence[int], fitted: Seen
) -> tuple[Region, ...]:
    """Regions outside which few of the samples lie, whatever the number of interfaces."""
    usual = 1 - UNUSUAL / max(1, len(known))
    limits = {
        j: float(torch.quantile(away, usual))
        for j, away in zip(interfaces, fitted.distances.T, strict=True)
    }
    return tuple(replace(here, limit=limits[j]) for j, here in sorted(known.items()))


def _judged(certificate: Certificate, interfaces: Sequence[int], seen: Seen) -> Certificate:
    """The certificate with what it is worth on samples that it was not made of."""
    found = estimate(certificate, dict(zip(interfaces, seen.jumps.T, strict=True)))
    away = dict(zip(interfaces, seen.distances.T, strict=True))
    return replace(
        certificate,
        coverage=float((seen.true <= found).double().mean()),
        correlation=rank_correlation(found, seen.true),
        doubted=float(doubtful(certificate, found, away, seen.outputs).double().mean()),
    )


def nonnegative(columns: Tensor, target: Tensor) -> Tensor:
    """Weights w ≥ 0 that minimise ‖columns w - target‖, each improved in turn."""
    gram, right = columns.T @ columns, columns.T @ target
    weights = torch.zeros_like(right)
    for _ in range(ROUNDS):
        for i in range(len(weights)):
            if gram[i, i] > 0:
                step = (right[i] - gram[i] @ weights) / gram[i, i]
                weights[i] = (weights[i] + step).clamp(min=0.0)
    return weights if bool(weights.sum() > 0) else torch.ones_like(weights)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation of ranks; 0 where one does not vary."""
    ranks = [values.double().argsort().argsort().double() for values in (a, b)]
    if len(a) < 2 or float(a.std()) == 0 or float(b.std()) == 0:
        return 0.0
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def regions(subject: Subject, interfaces: Iterable[int], records: Store) -> dict[int, Region]:
    """By interface of this rank, the region of the serial network's states.

    There is none where samples are not told apart, or are fewer than two.
    """
    mine = [j for j in interfaces if j in subject.pieces]
    seen: dict[int, list[Tensor | None]] = {j: [] for j in mine}
    for record in records:
        for j in mine:
            seen[j].append(features(record["states"][piece(j)][1], batch_of(record["inputs"])))
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
    one = torch.eye(len(centre), dtype=spread.dtype)
    factor = torch.linalg.cholesky(spread + least * one)
    whitening = torch.linalg.solve_triangular(factor, one, upper=False)
    away = ((every - centre) @ whitening.T).norm(dim=1) / len(centre) ** 0.5
    corners = whitening[tuple(torch.tril_indices(len(centre), len(centre)))]
    return Region(interface, _short(centre), _short(corners), float(away.max()))


def _short(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
