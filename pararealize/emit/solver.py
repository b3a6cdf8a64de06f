"""Solver: what goes through the cycles of a multigrid network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pararealize.emit.devices import movers
from pararealize.emit.emission import Emission
from pararealize.emit.graph import lower
from pararealize.emit.ranks import binder
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.plan import Stack
from pararealize.ir.target import Target
from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.stacked import Stacked, divided
from pararealize.runtime.multigrid.solver import MultigridSolver
from pararealize.runtime.runners.multigrid import MultigridRunner


def solution(emission: Emission, iteration: Iteration, network: nn.Module) -> MultigridRunner:
    """The network in one process, on one device or several."""
    schedule, parts = emission.schedule, emission.propagators
    moves = movers(schedule, parts) if schedule.ranks > 1 else {}

    def move(rank: int, value: Any) -> Any:
        return moves[rank](value) if rank in moves else value

    stacks = [_stacked(stack, parts) for stack in emission.plan.stacks]
    solver = MultigridSolver(iteration, parts, range(schedule.ranks), move, stacks)
    plain = lower(schedule, emission.arguments, parts)
    return MultigridRunner(solver, binder(emission.arguments), network, plain)


def _stacked(stack: Stack, parts: Mapping[Target, Propagator]) -> Stacked:
    """The slices of a stack side by side; the first one's beginning by itself."""
    parted = {Target.fine(j): parts[Target.fine(j)] for j in stack.slices}
    members = {target: fine for target, fine in parted.items() if isinstance(fine, Fine)}
    if not stack.entry:
        return Stacked(members)
    first = Target.fine(1)
    lead, members[first] = divided(members[first], stack.entry)
    return Stacked(members, {first: lead})
