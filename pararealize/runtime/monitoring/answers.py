"""Answers: scores of classes, how sure they are, and how far one network's are from another's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Axes of an answer that is a map of scores: [batch, classes, height, width].
MAP = 4
#: Axes of answers that are one score for every class: [batch, classes].
PLAIN = 2


def class_axis(scores: Tensor) -> int | None:
    """The axis of the classes; ``None`` where answers are no scores.

    Classes are the last axis of ``[batch, …, classes]``, the second of maps of four or more axes.
    """
    axis = 1 if scores.dim() >= MAP else -1
    return axis if scores.dim() > 1 and scores.shape[axis] > 1 else None


def entropies(scores: Tensor) -> Tensor | None:
    """The mean entropy of each sample's answers, -Σ_c p_c log p_c with p = softmax(scores).

    One number a sample, in nats; ``None`` where a sample has no more than one answer.
    """
    axis = class_axis(scores)
    if axis is None or scores.dim() == PLAIN:
        return None
    each: Tensor = torch.special.entr(scores.detach().float().softmax(axis)).sum(axis)
    return each.flatten(1).mean(1)


def classes(scores: Tensor) -> Tensor | None:
    """The class chosen of each sample (and position); ``None`` where answers are no scores."""
    axis = class_axis(scores)
    return None if axis is None else scores.argmax(axis)


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


def swaps(found: Tensor, serial: Tensor) -> Tensor | None:
    """How much any class gains on the one chosen, max_c (d_c - d_a) with d = serial - found.

    One number a sample, float64; ``None`` where answers are no ``[batch, classes]``. The serial
    answer is another where that is above the lead of the class chosen, a.
    """
    if found.dim() != PLAIN or classes(found) is None:
        return None
    gains = serial.double() - found.double()
    return (gains - gains.gather(1, found.argmax(1, keepdim=True))).amax(1)


def divergence(found: Tensor, serial: Tensor) -> Tensor | None:
    """KL(p ‖ q) of the classes' probabilities p of the serial answer and q of the one found.

    In nats, a mean over samples (and positions); ``None`` where answers are no scores.
    """
    axis = class_axis(serial)
    if axis is None:
        return None
    wanted, here = (scores.float().log_softmax(axis) for scores in (serial, found))
    return functional.kl_div(here, wanted, reduction="none", log_target=True).sum(axis).mean()
