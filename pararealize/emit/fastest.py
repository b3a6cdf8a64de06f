"""Fastest: whether a multigrid step on one device is quicker than the serial network's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.cost.measure import medians
from pararealize.emit.assemble import assemble
from pararealize.emit.emission import Emission
from pararealize.emit.runner import runner_of
from pararealize.ir.decisions import Decisions
from pararealize.runtime.values.pytree import tensors_of

#: Steps of each, of which the median is taken.
STEPS = 5


def faster_of_both(decisions: Decisions, serial: nn.Module, inputs: tuple[Any, ...]) -> Decisions:
    """The decisions, or those for the serial network where its steps are measured to be faster."""
    speedup = measured_speedup(assemble(decisions, copy.deepcopy(serial)), serial, inputs)
    decisions = replace(decisions, plan=replace(decisions.plan, measured_speedup=speedup))
    solved = decisions.iteration
    if speedup >= 1 or solved is None:
        return decisions
    exact = replace(solved, forward=solved.forward[-1:], adjoint=solved.adjoint[-1:], warm=())
    return replace(decisions, iteration=exact, plan=replace(decisions.plan, stacks=()))


def measured_speedup(emission: Emission, serial: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Seconds of a serial step over those of a multigrid step, measured on copies."""
    runner, twin = runner_of(emission, emission.serial), copy.deepcopy(serial)

    def answer(*args: Any) -> Any:
        emission.begin_step()
        return runner.run(args, {}, None)

    with torch.random.fork_rng(devices=[]):
        mine, wanted = medians(
            partial(_step, answer, inputs), partial(_step, twin, inputs), runs=STEPS
        )
    return wanted / mine


def _step(answer: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    wanted = [tensor for tensor in tensors_of(answer(*inputs)) if tensor.requires_grad]
    if wanted:
        torch.autograd.backward([o.float().pow(2).mean() for o in wanted])
