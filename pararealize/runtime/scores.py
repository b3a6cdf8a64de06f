"""Scores: answers that are one number for every class."""

from __future__ import annotations

import torch
from torch import Tensor

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
