"""Depth batching: which slices to advance as one batch over depth, on one device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pararealize.cost.measure import medians
from pararealize.cost.probe import Probe
from pararealize.errors import CutError, MethodError
from pararealize.ir.features import split, without
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Stack
from pararealize.ir.program import Segment
from pararealize.ir.target import Target
from pararealize.propagators.fine import Fine
from pararealize.propagators.paths import modules_of
from pararealize.propagators.stacked import Stacked, alike, divided, is_stackable, stack_weights
from pararealize.runtime.values.pytree import leaves_of

#: Runs of which the median is taken.
RUNS = 3
#: Seconds of runs after which one of each says enough: what takes long varies little.
ENOUGH = 2.0


def find_stacks(
    probe: Probe,
    method: MGRIT,
    features: Mapping[int, Segment],
    known: tuple[Stack, ...] | None = None,
) -> tuple[Stack, ...]:
    """Groups of slices that compute the same function with other weights.

    With ``batched="auto"`` only those whose forward and backward evaluation is measured to be
    faster at once than one after another. ``features`` are what slices compute of the inputs.
    What was measured before is ``known``.

    Raises:
        MethodError: ``batched="always"``, and no two slices are alike.
        CutError: slices that are known to be alike are not.

    """
    if method.batched == "never" or probe.partition.n < 3 or method.storage != "all":
        return ()
    fine = {j: probe.fine(j) for j in range(1, probe.partition.n + 1)}
    for j, part in fine.items():
        if j in features:
            segment = without(part.segments[0], features[j].results or ())
            fine[j] = Fine(probe.copy, segment, segment, part.label)
    entry = _entry(probe, fine)
    if entry:
        fine[1] = divided(fine[1], entry)[1]
    groups = _groups(fine)
    if not groups and method.batched == "always":
        raise MethodError(
            "MGRIT(batched='always'): no two slices can be advanced as one batch: they have to be "
            "of one structure, with one tensor as state, without buffers, random numbers or inputs "
            "besides the state. Choose n so that slices are alike, or write batched='auto'."
        )
    if known is not None:
        _check_known(known, groups, entry)
        return known
    measured = [_measured(probe, {j: fine[j] for j in g}, features, entry) for g in groups]
    return tuple(s for s in measured if s.speedup > 1 or method.batched == "always")


def _check_known(known: tuple[Stack, ...], groups: list[list[int]], entry: str) -> None:
    for stack in known:
        wanted = entry if 1 in stack.slices else stack.entry
        if list(stack.slices) not in groups or stack.entry != wanted:
            raise CutError(
                f"the slices {list(stack.slices)} are no batch over depth"
                f"{f', from {stack.entry!r} on' if stack.entry else ''}: alike are "
                f"{groups or 'none'}."
            )


def _entry(probe: Probe, fine: Mapping[int, Fine]) -> str:
    """The value in slice 1 from which on it has as many layers as slice 2, and is like it."""
    partition = probe.partition
    start, middle, stop = partition.bounds[:3]
    at = 2 * middle - stop
    if not start < at < middle:
        return ""
    name = partition.chain.interfaces[at - 1].values[0]
    parts = split(fine[1].segments[0], name)
    if parts is None or not _is_plain(fine[1], parts[0]):
        return ""
    rest = divided(fine[1], name)[1]
    return name if is_stackable(rest) and alike(rest, fine[2]) else ""


def _is_plain(part: Fine, lead: Segment) -> bool:
    """Whether nothing moves or is drawn in the layers before the value."""
    modules = [m for path in modules_of(lead) for m in part.root.get_submodule(path).modules()]
    same = part.segments[0] == part.segments[1]
    return same and not part.draws and not any(module._buffers for module in modules)


def _groups(fine: Mapping[int, Fine]) -> list[list[int]]:
    """Slices, two or more, that compute the same function with other weights."""
    groups: list[list[int]] = []
    for j in (j for j, part in fine.items() if is_stackable(part)):
        group = next((g for g in groups if alike(fine[g[0]], fine[j])), [])
        if not group:
            groups.append(group)
        group.append(j)
    return [group for group in groups if len(group) > 1]


def _measured(
    probe: Probe, group: Mapping[int, Fine], features: Mapping[int, Segment], entry: str
) -> Stack:
    """A group of slices with how many times faster they are at once."""
    parts = {Target.fine(j): part for j, part in group.items()}
    stacked = Stacked(parts)
    lead = divided(probe.fine(1), entry)[0] if entry and 1 in group else None
    first = probe.trajectory[0] if lead is None else probe.run(lead, None)
    states = [_leaf(first if j == 1 else probe.trajectory[j - 1]) for j in group]
    made = [_features(probe, features.get(j)) for j in group]
    columns = [torch.stack(column) for column in zip(*made, strict=True)]

    def loop() -> None:
        rows = zip(parts.values(), states, made, strict=True)
        results = [part(state, *row) for part, state, row in rows]
        torch.autograd.grad(results, states, [torch.ones_like(r) for r in results])

    def batch() -> None:
        own = stacked.weights(list(parts))
        weights = [stack_weights(column).detach().requires_grad_() for column in own]
        state = torch.stack([s.detach() for s in states]).requires_grad_()
        result = stacked(weights, state, columns)
        torch.autograd.grad(result, [state, *weights], torch.ones_like(result), allow_unused=True)

    with torch.enable_grad():
        slow, fast = medians(loop, batch, runs=RUNS, enough=ENOUGH)
    return Stack(tuple(group), slow / fast, "" if lead is None else entry)


@torch.no_grad()
def _features(probe: Probe, segment: Segment | None) -> tuple[Tensor, ...]:
    """What a slice computes of the probe's inputs alone."""
    if segment is None:
        return ()
    made = probe.run(Fine(probe.copy, segment, segment, "what a slice sees"), None)
    return made if isinstance(made, tuple) else (made,)


def _leaf(state: Tensor) -> Tensor:
    (leaf,) = leaves_of(state)
    copy: Tensor = leaf.detach().clone()  # inputs may have been made in inference mode
    return copy.requires_grad_()
