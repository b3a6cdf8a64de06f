"""L-BFGS with a backtracking line search on all examples at once, as layer-parallel codes train.

Nocedal and Wright, "Numerical Optimization" (2006), algorithms 7.4 and 3.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Of the line search: the share of the promised decrease that is wanted, and a step's shortening.
ARMIJO, SHORTER = 1e-4, 0.5

#: A loss without its gradient is this share of the work of both.
FORWARD = 1 / 3


@dataclass(frozen=True)
class Descent:
    """How far to descend: iterations, the norm of a gradient that ends them, pairs remembered.

    ``trials`` is how often a step is halved at most.
    """

    iterations: int = 130
    tolerance: float = 1e-4
    memory: int = 10
    trials: int = 15


@dataclass(frozen=True)
class Descended:
    """The objective before every iteration, and the work, in gradients of the objective."""

    losses: tuple[float, ...]
    work: float


Pairs = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Point:
    """Where the objective has a value and a gradient."""

    x: Tensor
    value: float
    gradient: Tensor


def descend(
    parameters: Sequence[nn.Parameter], objective: Callable[[], Tensor], descent: Descent
) -> Descended:
    """Change the parameters in place until the objective's gradient is small, or time is over.

    The first step is the gradient itself; every line search begins at length 1. Where no length
    decreases the objective, what is remembered is forgotten, and if that was nothing, it ends.
    Steps on which the objective bends down are not remembered.
    """
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=descent.memory)
    losses, work, start = list[float](), 1.0, flat(parameters)
    at = _point(parameters, start, objective())
    for _ in range(descent.iterations):
        losses.append(at.value)
        if float(at.gradient.norm()) < descent.tolerance:
            break
        later, trials = _search(parameters, objective, at, -scaled(at.gradient, pairs), descent)
        work += 1 + FORWARD * (trials - 1)
        if later is None and not pairs:
            break
        if later is None:
            pairs.clear()
            continue
        step, change = later.x - at.x, later.gradient - at.gradient
        if float(step @ change) > 0:
            pairs.append((step, change))
        at = later
    return Descended(tuple(losses), work)


def _search(
    parameters: Sequence[nn.Parameter],
    objective: Callable[[], Tensor],
    at: _Point,
    down: Tensor,
    descent: Descent,
) -> tuple[_Point | None, int]:
    """The first of the lengths 1, 1/2, ... that decreases the objective enough, and how many."""
    length, promised = 1.0, float(at.gradient @ down)
    for trial in range(descent.trials):
        place(parameters, at.x + length * down)
        found = objective()
        if found.item() <= at.value + ARMIJO * length * promised:
            return _point(parameters, at.x + length * down, found), trial + 1
        length *= SHORTER
    place(parameters, at.x)
    return None, descent.trials


def scaled(gradient: Tensor, pairs: Pairs) -> Tensor:
    """The gradient times the approximate inverse Hessian of the last steps and their changes."""
    direction, shares = gradient, []
    for step, change in reversed(pairs):
        shares.append(float(step @ direction) / float(step @ change))
        direction = direction - shares[-1] * change
    if pairs:
        step, change = pairs[-1]
        direction = direction * (float(step @ change) / float(change @ change))
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - float(change @ direction) / float(step @ change)) * step
    return direction


def _point(parameters: Sequence[nn.Parameter], x: Tensor, value: Tensor) -> _Point:
    return _Point(x, value.item(), flat(torch.autograd.grad(value, parameters)))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@torch.no_grad()
def place(parameters: Sequence[nn.Parameter], x: Tensor) -> None:
    """Give the numbers of a vector to the parameters."""
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, x.split(sizes), strict=True):
        parameter.copy_(part.view_as(parameter))
