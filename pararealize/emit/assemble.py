"""Assemble: propagators for a schedule's tasks, and the module that runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from pararealize.emit.adoption import is_added
from pararealize.emit.devices import on_devices
from pararealize.emit.emission import Emission, Share
from pararealize.emit.propagators import (
    borrowing_propagators,
    propagators_of,
    registered_name,
    share_masks,
)
from pararealize.emit.ranks import drawing, inner_of, keep_applied, on_rank
from pararealize.ir.calibration import Calibration
from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.methods import MGRIT, Method
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import in_a_row
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.effects.statistics import Rollback
from pararealize.runtime.monitoring.rules import BelowTolerance, Certified, Rule


def assemble(
    decisions: Decisions,
    serial: nn.Module,
    transport: Transport | None = None,
    devices: Sequence[torch.device] = (),
) -> Emission:
    """What runs what was decided, with the weights of ``serial``.

    With a ``transport`` it holds and runs this rank's part only; with ``devices``, those of each
    rank of the schedule lie on one of them.

    Raises:
        RankError: the ranks are more than the subnetworks, or two would hold the same weights.

    """
    registries = _registries(decisions)
    parts = propagators_of(decisions, serial, registries)
    linked = decisions.iteration is None  # cycles have an order of their own
    parts = _applied(parts, decisions.every, ranks=transport is not None, linked=linked)
    emission = Emission(
        replace(decisions, coarse={}, guesses={}, levels={}),  # these have been put into use
        serial,
        registries,
        parts,
        own_streams=_draws_besides(parts),
        rule=rule_of(decisions.plan.method, decisions.plan.calibration),
    )
    if decisions.stages[1:]:
        _share_rollback(parts, emission.rollback)
    if transport is not None:
        return on_rank(emission, transport)
    return on_devices(emission, devices) if devices else emission


def _registries(decisions: Decisions) -> dict[str, nn.ModuleDict]:
    """Coarse and guess networks by the names that they have in the state dictionary."""
    coarse = {str(j): c.module for j, c in decisions.coarse.items()}
    coarse |= {registered_name(target): c.module for target, c in decisions.levels.items()}
    guesses = {str(j): g.module for j, g in decisions.guesses.items()}
    return {
        prefix: nn.ModuleDict({key: m for key, m in modules.items() if m is not None})
        for prefix, modules in (("coarse", coarse), ("guess", guesses))
    }


def _applied(
    parts: Mapping[Target, Propagator], schedules: Iterable[Schedule], *, ranks: bool, linked: bool
) -> dict[Target, Propagator]:
    """The propagators that schedules apply, with masks for those that need them."""
    used = Counter(task.target for s in schedules for task in s if task.target is not None)
    parts = {target: part for target, part in parts.items() if target in used}
    share_masks(parts, used, ranks=ranks, linked=linked)
    return parts


def _draws_besides(parts: Mapping[Target, Propagator]) -> bool:
    """Whether any propagator draws random numbers besides the network's own."""
    return any(mask.own_stream for part in parts.values() for mask in part.step_masks())


def rule_of(method: Method, calibration: Calibration | None) -> Rule | None:
    """What decides sweeps while the network runs: its tolerance, and its certificate."""
    if isinstance(method, MGRIT):
        return None
    rule = None if method.tolerance is None else BelowTolerance(method.tolerance)
    if calibration is None or calibration.certificate is None:
        return rule
    return Certified(calibration.certificate, rule)


def _share_rollback(parts: Mapping[Target, Propagator], rollback: Rollback) -> None:
    """What moves statistics notes it; what is made of another propagator leaves that to it."""
    for part in parts.values():
        inner_of(part).rollback = rollback


def with_levels(emission: Emission, levels: Mapping[Target, Coarse]) -> Emission:
    """A multigrid network with other coarse propagators, of those that it applies already."""
    own = {target: choice for target, choice in levels.items() if target in emission.propagators}
    coarse = borrowing_propagators(own, emission.serial)
    share_masks(coarse, dict.fromkeys(coarse, 2), ranks=False, linked=False)
    parts = {**emission.propagators, **coarse}
    return replace(emission, propagators=parts, own_streams=_draws_besides(parts))


def renewed(
    emission: Emission,
    parts: Mapping[Target, Propagator],
    registries: Mapping[str, nn.ModuleDict],
    stages: Sequence[Schedule],
    rule: Rule | None,
    plan: Plan,
) -> Emission:
    """The network with these coarse and guess propagators (of this rank), stages and rule.

    Networks in the registries that no stage applies are removed, as when it is compiled. On ranks,
    all call it.
    """
    ranks = emission.share is not None
    every = _applied({**emission.propagators, **parts}, stages, ranks=ranks, linked=True)
    keep_applied(registries, every)
    _share_rollback(every, emission.rollback)
    found = replace(
        emission,
        decisions=replace(emission.decisions, plan=plan, sweeps=tuple(stages)),
        registries=registries,
        propagators=every,
        rule=rule,
        own_streams=_draws_besides(every),
    )
    return found if found.share is None else _shared(found, found.share)


def _shared(emission: Emission, share: Share) -> Emission:
    """The emission with the draws and names of all ranks, which each has to know."""
    whole = in_a_row(emission.decisions.stages)
    here = [task for task in whole if task.target in emission.propagators]
    local = replace(whole, tasks=tuple(here))
    registries = emission.registries.items()
    own = {f"{prefix}.{key}" for prefix, found in registries for key in found.state_dict()}
    mine = (drawing(local, emission.propagators), own, emission.own_streams)
    rows = share.transport.exchange(mine)
    order: dict[object, int] = {task.value: i for i, task in enumerate(whole)}
    draws = sorted((draw for found, *_ in rows for draw in found), key=lambda d: order[d.value])
    names = {name for name in share.names if not is_added(name)}
    names |= {name for _, found, _ in rows for name in found}
    share = replace(share, draws=tuple(draws), names=frozenset(names))
    return replace(emission, share=share, own_streams=any(found for *_, found in rows))
