"""Levels: the propagators of a multigrid hierarchy, and what solves with them."""

from __future__ import annotations

from torch import nn

from pararealize.ir.parts import Coarse, Decisions
from pararealize.propagators.averaged import Averaged
from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered


def level_propagators(
    decisions: Decisions, serial: nn.Module, registry: nn.ModuleDict
) -> dict[str, Propagator]:
    """Coarse propagators by name; all but a user's own borrow the network's weights."""
    chain, partition = decisions.partition.chain, decisions.partition
    found: dict[str, Propagator] = {}
    for name, choice in decisions.levels.items():
        key = name.partition(".")[2]
        label = f"the {choice.kind} coarse propagator {name}"
        before = partition.bounds[int(key) - 1] if choice.segment is None else 0
        leaves = len(choice.segment.state if choice.segment else chain.state(before))
        found[name] = _propagator(choice, serial, registry, key, label, leaves)
    return found


def _propagator(
    choice: Coarse, serial: nn.Module, registry: nn.ModuleDict, key: str, label: str, leaves: int
) -> Propagator:
    if choice.segment is None:
        return Registered(registry, key, label, leaves=leaves, inputs=choice.inputs)
    if choice.averages:
        return Averaged(serial, choice.segment, choice.averages, label)
    return Fine(serial, choice.segment, choice.segment, label, borrows=True)
