"""Certify: from the jumps of the last sweep, an estimate of an answer's error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pararealize.calibration.observe import Observed
from pararealize.calibration.regions import regions
from pararealize.calibration.store import Store
from pararealize.calibration.subject import Pairs, Subject
from pararealize.ir.calibration import Certificate, Fitting, Region
from pararealize.ir.schedule import Watch
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.answers import entropies, errors, swaps
from pararealize.runtime.monitoring.measures import Measure, batch_of, tables
from pararealize.runtime.monitoring.region_distance import RegionDistance
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
        swaps = None if self.swaps is None else self.swaps[rows]
        return Seen(
            self.jumps[rows], self.distances[rows], self.true[rows], self.outputs[rows], swaps
        )


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
    run: Callable[[Mapping[str, Any]], tuple[Any, Pairs]],
    watches: Mapping[int, Watch],
    known: Mapping[int, Region],
    records: Store,
) -> Seen:
    near = {(watches[j].sweep, j): RegionDistance(here).distances for j, here in known.items()}
    jumps, distances, wrong, outputs, moved = [], [], [], [], []
    for record in records:
        output, pairs = run(record["inputs"])
        found, serial = answer(output), answer(record["output"])
        here = [watches[j] for j in pairs]
        rows = tables(here, list(pairs.values()), batch_of(record["inputs"]), near)
        each = subject.together(dict(zip(pairs, rows, strict=True)))
        every = [Measure(w.sweep, j, *each[j]) for j, w in watches.items()]
        jumps.append(torch.stack([m.relative for m in every], 1))
        distances.append(torch.stack([m.distances for m in every], 1))
        wrong.append(errors(found, serial).cpu())
        outputs.append(found.cpu())
        moved.append(swaps(found, serial))
    swapped = [row.cpu() for row in moved if row is not None]
    return Seen(
        torch.cat(jumps),
        torch.cat(distances),
        torch.cat(wrong),
        torch.cat(outputs),
        torch.cat(swapped) if swapped else None,
    )


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
            margin=_margin(fitted.swaps),
            unsure=_unsure(fitted.outputs),
            usual=float((fitted.jumps @ weights).median()),
            regions=_bounded(known, interfaces, fitted),
        )
    return _judged(certificate, interfaces, judged)


def _margin(swaps: Tensor | None) -> float | None:
    """How near the two best classes may be."""
    return None if swaps is None else CAUTION * float(torch.quantile(swaps, COVER))


def _unsure(outputs: Tensor) -> float | None:
    """The mean entropy that few samples of many answers exceed."""
    found = entropies(outputs)
    return None if found is None else float(torch.quantile(found, COVER))


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
    """With what it is worth on samples that it was not made of."""
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
