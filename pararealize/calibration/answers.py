"""Answers: how far one network's are from another's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from pararealize.runtime.scores import PLAIN, class_axis


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
