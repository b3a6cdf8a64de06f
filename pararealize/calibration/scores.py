"""Scores: how often, and how nearly, a number of sweeps gives the serial network's answers."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pararealize.calibration.observe import Store
from pararealize.calibration.subject import Subject
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.answers import agreements, errors
from pararealize.runtime.monitoring.rules import answer


def score(
    subject: Subject, parts: Mapping[Target, Propagator], iterations: int, records: Store
) -> tuple[float, float]:
    """Share of held-out answers that are the serial network's, and their mean relative error."""
    run = subject.run(subject.schedule(iterations), parts)
    agreed, wrong = [], []
    for record in records:
        found, serial = answer(run(record["inputs"])[0]), answer(record["output"])
        agreed.append(agreements(found, serial).double())
        wrong.append(errors(found, serial))
    return float(torch.cat(agreed).mean()), float(torch.cat(wrong).mean())
