"""Renew: a network with other coarse propagators and other schedules than it had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from pararealize.emit.adoption import is_added
from pararealize.emit.assemble import applications, share_rollback
from pararealize.emit.emission import Emission, Share
from pararealize.emit.multigrid_propagators import share_masks
from pararealize.emit.ranks import drawing, registered
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import in_a_row
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.monitoring.rules import Rule


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
    every = {**emission.propagators, **parts}
    used = applications(stages)
    every = {target: part for target, part in every.items() if target in used}
    keep = registered(every.values())
    for registry in registries.values():
        for key in [key for key, module in registry.items() if id(module) not in keep]:
            del registry[key]
    share_masks(every, used)
    share_rollback(every, emission.rollback)
    draws = any(mask.own_stream for part in every.values() for mask in part.step_masks())
    found = replace(
        emission,
        decisions=replace(emission.decisions, plan=plan, sweeps=tuple(stages)),
        registries=registries,
        propagators=every,
        rule=rule,
        own_streams=draws,
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
