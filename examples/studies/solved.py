"""Solved: classifiers of sequences whose recurrence is solved in slices of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pararealize.layers import ImplicitGRUStep, TimeParallel
from pararealize.models import SequenceClassifier


class Solved(nn.Module):
    """``model`` with the same parts: features of all frames at once, then a recurrence of its step.

    The recurrence gives all states: a :class:`TimeParallel` or :class:`TimeParareal`.
    """

    def __init__(
        self, model: SequenceClassifier, recurrence: Callable[[ImplicitGRUStep], nn.Module]
    ) -> None:
        super().__init__()
        assert isinstance(model.step, ImplicitGRUStep)
        self.features, self.head = model.features, model.head
        self.recurrence = recurrence(model.step)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, length, ...]`` to class scores ``[batch, classes]``."""
        frames = self.features(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        scores: Tensor = self.head(self.recurrence(frames)[:, -1])
        return scores


class Stacked(nn.Module):
    """Implicit GRUs one above the other on vectors of frames, and class scores of the last state.

    Without ``slices`` times are run one after another; with them by :class:`TimeParallel`. The
    weights are the same for a seed.

    Moon and Cyr (arXiv:2203.04738) classify videos so, with two layers on a ResNet's features.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], classes: int, *, dt: float, slices: int | None
    ) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        steps = [ImplicitGRUStep(sizes[i], width, dt) for i, width in enumerate(widths)]
        self.steps = nn.ModuleList(steps)
        self.solvers = nn.ModuleList(TimeParallel(step, slices or 1) for step in steps)
        self.slices = slices
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, length, inputs]`` to class scores ``[batch, classes]``."""
        for step, solver in zip(self.steps, self.solvers, strict=True):
            x = solver(x) if self.slices else _serially(step, x)
        scores: Tensor = self.head(x[:, -1])
        return scores


def _serially(step: nn.Module, x: Tensor) -> Tensor:
    """All states, ``[batch, length, width]``."""
    assert isinstance(step, ImplicitGRUStep)
    hidden, states = x.new_zeros(x.shape[0], step.width), []
    for frame in x.unbind(1):
        hidden = step(hidden, frame)
        states.append(hidden)
    return torch.stack(states, 1)
