"""Score: how closely a network answers like the serial one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pararealize.calibration.store import Store
from pararealize.calibration.subject import Subject
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.certificate import answer

#: Axes of an answer that is a map of scores: [batch, classes, height, width].
MAP = 4


def classes(scores: Tensor) -> Tensor | None:
    """The class chosen of each sample (and position); ``None`` where answers are no scores.

    Classes are the last axis of ``[batch, …, classes]``, the second of maps of four or more axes.
    """
    axis = 1 if scores.dim() >= MAP else -1
    return scores.argmax(axis) if scores.dim() > 1 and scores.shape[axis] > 1 else None


def agreements(found: Tensor, serial: Tensor) -> Tensor:
    """Whether each answer is the serial one: the same class, or numbers within 1%."""
    here, there = classes(found), classes(serial)
    if here is not None and there is not None:
        return (here == there).flatten()
    return errors(found, serial) <= 1e-2


def errors(found: Tensor, serial: Tensor) -> Tensor:
    """Relative 2-norm error of each sample's answer."""
    wrong = (found.double() - serial.double()).reshape(len(serial), -1).norm(dim=1)
    relative: Tensor = wrong / serial.double().reshape(len(serial), -1).norm(dim=1).clamp(min=1e-30)
    return relative


def score(
    subject: Subject, parts: Mapping[str, Propagator], iterations: int, records: Store
) -> tuple[float, float]:
    """Share of held-out answers that are the serial network's, and their mean relative error."""
    run = subject.run(subject.schedule(iterations), parts)
    agreed, wrong = [], []
    for record in records:
        found, serial = answer(run(record["inputs"])[0]), answer(record["output"])
        agreed.append(agreements(found, serial).double())
        wrong.append(errors(found, serial))
    return float(torch.cat(agreed).mean()), float(torch.cat(wrong).mean())
