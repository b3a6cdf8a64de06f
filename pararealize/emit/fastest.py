"""Fastest: whether a multigrid step on one device is quicker than the serial network's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cost.measure import medians
from pararealize.ir.hierarchy import Iteration
from pararealize.runtime.values.pytree import leaves_of

#: Steps of each, of which the median is taken.
STEPS = 5


def serially(solved: Iteration) -> Iteration:
    """The iteration with nothing but the serial network's schedules."""
    return replace(solved, forward=solved.forward[-1:], adjoint=solved.adjoint[-1:], warm=())


def measured_speedup(network: nn.Module, serial: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Seconds of a serial step over those of a multigrid step, measured on copies."""
    ours, theirs = copy.deepcopy(network), copy.deepcopy(serial)
    with torch.random.fork_rng(devices=[]):
        mine, wanted = medians(
            partial(_step, ours, inputs), partial(_step, theirs, inputs), runs=STEPS
        )
    return wanted / mine


def _step(module: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    outputs = leaves_of(module(*inputs))
    wanted = [o for o in outputs if isinstance(o, Tensor) and o.requires_grad]
    if wanted:
        torch.autograd.backward([o.float().pow(2).mean() for o in wanted])
