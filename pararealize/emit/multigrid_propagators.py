"""Multigrid propagators: those of a hierarchy of levels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import nn

from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.features import without
from pararealize.ir.methods import MGRIT
from pararealize.ir.target import Target
from pararealize.propagators.averaged import borrowed
from pararealize.propagators.fine import Checkpointed, Fine
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered
from pararealize.propagators.zero_preserving import ZeroPreserving
from pararealize.runtime.effects.masks import Masks


def level_propagators(
    decisions: Decisions, serial: nn.Module, registry: nn.ModuleDict
) -> dict[Target, Propagator]:
    """Coarse propagators of all levels; all but a user's own borrow the network's weights."""
    chain, partition = decisions.partition.chain, decisions.partition
    found: dict[Target, Propagator] = {}
    for target, choice in decisions.levels.items():
        label = _label(choice, target)
        before = partition.bounds[target.number - 1] if choice.segment is None else 0
        leaves = len(choice.segment.state if choice.segment else chain.state(before))
        key = str(target.number)
        found[target] = _propagator(choice, serial, registry, key, label, leaves)
    return found


def propagators_of(levels: Mapping[Target, Coarse], serial: nn.Module) -> dict[Target, Propagator]:
    """Coarse propagators that borrow the network's weights."""
    return {
        target: borrowed(serial, choice.segment, choice.averages, _label(choice, target))
        for target, choice in levels.items()
        if choice.segment is not None
    }


def _label(choice: Coarse, target: Target) -> str:
    return f"the {choice.kind} coarse propagator {target}"


def sighted(
    decisions: Decisions, serial: nn.Module, fine: Mapping[Target, Fine]
) -> dict[Target, Fine]:
    """Slices that take what they see as arguments, and what computes that."""
    found: dict[Target, Fine] = {}
    for j, seen in decisions.features.items():
        names = seen.results or ()
        old = fine[Target.fine(j)]
        segment = without(old.segments[0], names)
        found[Target.fine(j)] = Fine(serial, segment, segment, old.label)
        found[Target.inputs(j)] = Fine(serial, seen, seen, f"what {old.label} sees")
    return found


def checkpointed(
    decisions: Decisions, serial: nn.Module, fine: Mapping[Target, Fine]
) -> dict[Target, Propagator]:
    """Slices that keep only the states between intervals, where the method asks for it."""
    method, partition = decisions.plan.method, decisions.partition
    if not isinstance(method, MGRIT) or method.storage != "intervals":
        return {}
    found: dict[Target, Propagator] = {}
    for j in range(1, partition.n + 1):
        first, last = partition.piece(j)
        if j not in decisions.features and last - first > 1:
            stride = method.factors[0]
            cuts = [*range(first, last, stride), last]
            spans = list(pairwise(cuts))
            parts = [_interval(decisions, serial, *span) for span in spans]
            found[Target.fine(j)] = Checkpointed(fine[Target.fine(j)], parts)
    return found


def _interval(decisions: Decisions, serial: nn.Module, first: int, last: int) -> Fine:
    chain = decisions.partition.chain
    train, evaluate = (chain.segment(first, last, training=mode) for mode in (True, False))
    layers = dict.fromkeys((chain.layers[first].name, chain.layers[last - 1].name))
    return Fine(serial, train, evaluate, f"the interval {' … '.join(layers)}")


def _propagator(
    choice: Coarse, serial: nn.Module, registry: nn.ModuleDict, key: str, label: str, leaves: int
) -> Propagator:
    if choice.segment is None:
        return Registered(registry, key, label, leaves=leaves, inputs=choice.inputs)
    return borrowed(serial, choice.segment, choice.averages, label)


def share_masks(parts: Mapping[Target, Propagator], used: Mapping[Target, int]) -> None:
    """Masks for what may draw random numbers more than once a step, or besides the network."""
    network = {id(p) for target, p in parts.items() if target.is_network}
    wrapped = [p.inner for p in parts.values() if isinstance(p, ZeroPreserving)]
    again = {id(p) for p in wrapped} | {id(p) for target, p in parts.items() if used[target] > 1}
    for part in (*parts.values(), *wrapped):
        own_stream = id(part) not in network
        if part.masks is None and part.draws and (own_stream or id(part) in again):
            part.masks = Masks(own_stream=own_stream)
