"""Stack: which slices to advance as one batch over depth, on one device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pararealize.errors import MethodError
from pararealize.ir.mgrit import MGRIT
from pararealize.ir.plan import Stack
from pararealize.passes.probe import Probe
from pararealize.propagators.fine import Fine
from pararealize.propagators.stacked import Stacked, alike, is_stackable

#: Runs of which the median is taken.
RUNS = 3


def find_stacks(probe: Probe, method: MGRIT) -> tuple[Stack, ...]:
    """Groups of slices that compute the same function with other weights.

    With ``batched="auto"`` only those whose forward and backward evaluation is measured to be
    faster at once than one after another.

    Raises:
        MethodError: ``batched="always"``, and no two slices are alike.

    """
    if method.batched == "never" or probe.partition.n < 3:
        return ()
    groups = [group for group in _groups(probe) if len(group) > 1]
    if not groups and method.batched == "always":
        raise MethodError(
            "MGRIT(batched='always'): no two slices can be advanced as one batch: they have to be "
            "of one structure, with one tensor as state, without buffers, random numbers or inputs "
            "besides the state. Choose n so that slices are alike, or write batched='auto'."
        )
    measured = [_measured(probe, group) for group in groups]
    return tuple(s for s in measured if s.speedup > 1 or method.batched == "always")


def _groups(probe: Probe) -> list[list[int]]:
    groups: list[list[int]] = []
    fine = {j: probe.fine(j) for j in range(1, probe.partition.n + 1)}
    for j, part in fine.items():
        if not is_stackable(part):
            continue
        home = next((g for g in groups if alike(fine[g[0]], part)), None)
        if home is None:
            groups.append([j])
        else:
            home.append(j)
    return groups


def _measured(probe: Probe, group: list[int]) -> Stack:
    """How many times faster a group is at once."""
    parts: dict[str, Fine] = {f"fine.{j}": probe.fine(j) for j in group}
    stacked = Stacked(parts)
    states = [_leaf(probe.trajectory[j - 1]) for j in group]

    def loop() -> None:
        results = [part(state) for part, state in zip(parts.values(), states, strict=True)]
        torch.autograd.grad(results, states, [torch.ones_like(r) for r in results])

    def batch() -> None:
        own = stacked.weights(list(parts))
        weights = [torch.stack(column).detach().requires_grad_() for column in own]
        state = torch.stack([s.detach() for s in states]).requires_grad_()
        result = stacked(weights, state)
        torch.autograd.grad(result, [state, *weights], torch.ones_like(result), allow_unused=True)

    with torch.enable_grad():
        slow, fast = _medians(loop, batch)
    return Stack(tuple(group), slow / fast)


def _leaf(state: Tensor) -> Tensor:
    (leaf,) = tree_leaves(state)
    found: Tensor = leaf.detach().requires_grad_()
    return found


def _medians(*functions: Callable[[], None]) -> list[float]:
    """Seconds of every function, run in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for run in range(RUNS + 1):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if run:  # the first warms up
                found.append(time.perf_counter() - start)
    return [sorted(found)[len(found) // 2] for found in times]
