"""Multigrid propagators: those of a hierarchy of levels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import nn

from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.features import without
from pararealize.ir.methods import MGRIT
from pararealize.propagators.averaged import borrowed
from pararealize.propagators.checkpointed import Checkpointed
from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered
from pararealize.propagators.zero_preserving import ZeroPreserving
from pararealize.runtime.effects.masks import Masks


def level_propagators(
    decisions: Decisions, serial: nn.Module, registry: nn.ModuleDict
) -> dict[str, Propagator]:
    """Coarse propagators by name; all but a user's own borrow the network's weights."""
    chain, partition = decisions.partition.chain, decisions.partition
    found: dict[str, Propagator] = {}
    for name, choice in decisions.levels.items():
        key = name.partition(".")[2]
        label = _label(choice, name)
        before = partition.bounds[int(key) - 1] if choice.segment is None else 0
        leaves = len(choice.segment.state if choice.segment else chain.state(before))
        found[name] = _propagator(choice, serial, registry, key, label, leaves)
    return found


def propagators_of(levels: Mapping[str, Coarse], serial: nn.Module) -> dict[str, Propagator]:
    """Coarse propagators that borrow the network's weights, by name."""
    return {
        name: borrowed(serial, choice.segment, choice.averages, _label(choice, name))
        for name, choice in levels.items()
        if choice.segment is not None
    }


def _label(choice: Coarse, name: str) -> str:
    return f"the {choice.kind} coarse propagator {name}"


def sighted(decisions: Decisions, serial: nn.Module, fine: Mapping[str, Fine]) -> dict[str, Fine]:
    """Slices that take what they see as arguments, and what computes that: ``inputs.2``, …."""
    found: dict[str, Fine] = {}
    for j, seen in decisions.features.items():
        names = seen.results or ()
        old = fine[f"fine.{j}"]
        segment = without(old.segments[0], names)
        found[f"fine.{j}"] = Fine(serial, segment, segment, old.label)
        found[f"inputs.{j}"] = Fine(serial, seen, seen, f"what {old.label} sees")
    return found


def checkpointed(
    decisions: Decisions, serial: nn.Module, fine: Mapping[str, Fine]
) -> dict[str, Propagator]:
    """Slices that keep only the states between intervals, where the method asks for it."""
    method, partition = decisions.plan.method, decisions.partition
    if not isinstance(method, MGRIT) or method.storage != "intervals":
        return {}
    found: dict[str, Propagator] = {}
    for j in range(1, partition.n + 1):
        first, last = partition.piece(j)
        if j not in decisions.features and last - first > 1:
            stride = method.factors[0]
            cuts = [*range(first, last, stride), last]
            spans = list(pairwise(cuts))
            parts = [_interval(decisions, serial, *span) for span in spans]
            found[f"fine.{j}"] = Checkpointed(fine[f"fine.{j}"], parts)
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


def share_masks(parts: Mapping[str, Propagator], used: Mapping[str, int]) -> None:
    """Masks for what may draw random numbers more than once a step, or besides the network."""
    network = {id(p) for name, p in parts.items() if name.startswith(("fine.", "head"))}
    wrapped = [p.inner for p in parts.values() if isinstance(p, ZeroPreserving)]
    again = {id(p) for p in wrapped} | {id(p) for name, p in parts.items() if used[name] > 1}
    for part in (*parts.values(), *wrapped):
        own_stream = id(part) not in network
        if part.masks is None and part.draws and (own_stream or id(part) in again):
            part.masks = Masks(own_stream=own_stream)
