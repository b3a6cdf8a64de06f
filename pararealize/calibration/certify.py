"""Certify: from the jumps of the last sweep, an estimate of an answer's error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pararealize.calibration.answers import classes, errors
from pararealize.calibration.store import Store
from pararealize.calibration.subject import Subject
from pararealize.ir.calibration import Certificate, Fitting
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.certificate import answer, doubtful, estimate
from pararealize.runtime.measures import batch_of, measured, measures

#: Share of samples whose true error an estimate has to cover where it is made.
COVER = 0.99
#: Relative errors below which no answer is doubted unless asked for: those of rounding.
LEAST = 1e-6
#: Rounds of coordinate descent for non-negative weights.
ROUNDS = 200


def certify(
    subject: Subject,
    parts: Mapping[str, Propagator],
    iterations: int,
    records: Store,
    options: Fitting,
) -> Certificate | None:
    """How to estimate errors after so many sweeps; ``None`` where none leaves a jump.

    Weights are fitted to one half of the samples and judged on the other.
    """
    schedule = subject.schedule(iterations)
    last = max((watch.sweep for watch in schedule.watches), default=-1)
    if last < 0:
        return None
    watches = tuple(watch for watch in schedule.watches if watch.sweep == last)
    run = subject.run(replace(schedule, watches=watches), parts)
    jumps: list[dict[int, Tensor]] = []
    wrong, scores = [], []
    for record in records:
        output, pairs = run(record["inputs"])
        tables = measured(list(pairs.values()), batch_of(record["inputs"]))
        found = measures((w for w in watches if w.interface in pairs), tables)
        jumps.append(subject.together({m.interface: m.relative for m in found}))
        wrong.append(errors(answer(output), answer(record["output"])).cpu())
        scores.append(answer(output).cpu())
    names = sorted(jumps[0])
    table = torch.cat([torch.stack([row[j] for j in names], 1) for row in jumps])
    true, outputs = torch.cat(wrong), torch.cat(scores)
    return _weigh(last + 1, dict(enumerate(names)), table, true, outputs, options)


def _weigh(
    sweeps: int,
    names: Mapping[int, int],
    jumps: Tensor,
    true: Tensor,
    outputs: Tensor,
    options: Fitting,
) -> Certificate:
    fitted, judged = slice(0, None, 2), slice(1 if len(true) > 1 else 0, None, 2)
    weights = nonnegative(jumps[fitted], true[fitted])
    sums = (jumps[fitted] @ weights).clamp(min=1e-30)
    weights = weights * torch.quantile(true[fitted] / sums, COVER).clamp(min=1e-12)
    estimates = jumps @ weights
    margins = outputs.dim() == 2 and classes(outputs) is not None
    limit = options.limit or max(LEAST, float(estimates[fitted].max()))
    pairs = {j: float(weights[i]) for i, j in names.items()}
    certificate = Certificate(sweeps, pairs, limit, options.above, margins)
    found = estimate(certificate, {j: jumps[judged, i] for i, j in names.items()})
    return replace(
        certificate,
        coverage=float((true[judged] <= found).double().mean()),
        correlation=rank_correlation(found, true[judged]),
        doubted=float(doubtful(certificate, found, outputs[judged]).double().mean()),
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
