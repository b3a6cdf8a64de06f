"""Assemble: propagators for a schedule's tasks, and the module that runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from pararealize.emit.devices import on_devices
from pararealize.emit.emission import Emission
from pararealize.emit.multigrid_propagators import (
    checkpointed,
    level_propagators,
    share_masks,
    sighted,
)
from pararealize.emit.ranks import on_rank
from pararealize.ir.calibration import Calibration
from pararealize.ir.chain import Partition
from pararealize.ir.decisions import Coarse, Decisions, Guess
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.schedule import Schedule
from pararealize.ir.target import HEAD, Target
from pararealize.propagators.averaged import borrowed
from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered
from pararealize.propagators.zero_preserving import ZeroPreserving
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
    parts = _propagators(decisions, serial, registries)
    used = applications(decisions.every)
    parts = {target: part for target, part in parts.items() if target in used}
    share_masks(parts, used)
    emission = Emission(
        decisions.without_modules(),
        serial,
        registries,
        parts,
        own_streams=any(mask.own_stream for part in parts.values() for mask in part.step_masks()),
        rule=rule_of(decisions.plan.method, decisions.plan.calibration),
    )
    if decisions.stages[1:]:
        share_rollback(parts, emission.rollback)
    if transport is not None:
        return on_rank(emission, transport)
    return on_devices(emission, devices) if devices else emission


def _registries(decisions: Decisions) -> dict[str, nn.ModuleDict]:
    """Coarse and guess networks by the names that they have in the state dictionary."""
    coarse = {str(j): c.module for j, c in decisions.coarse.items()}
    levels = {str(target.number): c.module for target, c in decisions.levels.items()}
    guesses = {str(j): g.module for j, g in decisions.guesses.items()}
    return {"coarse": _registry({**coarse, **levels}), "guess": _registry(guesses)}


def _propagators(
    decisions: Decisions, serial: nn.Module, registries: Mapping[str, nn.ModuleDict]
) -> dict[Target, Propagator]:
    """Everything that a schedule may apply."""
    partition, method = decisions.partition, decisions.plan.method
    fine = fine_propagators(partition, serial)
    fine |= sighted(decisions, serial, fine)
    parts: dict[Target, Propagator] = {**fine, **checkpointed(decisions, serial, fine)}
    if isinstance(method, MGRIT):
        return parts | level_propagators(decisions, serial, registries["coarse"])
    coarse = registries["coarse"]
    parts |= coarse_propagators(partition, serial, method, decisions.coarse, coarse, fine)
    return parts | guess_propagators(decisions.guesses, serial, registries["guess"])


def _registry(modules: Mapping[str, nn.Module | None]) -> nn.ModuleDict:
    return nn.ModuleDict({key: m for key, m in modules.items() if m is not None})


def applications(schedules: Iterable[Schedule]) -> Counter[Target]:
    """How often schedules apply every propagator."""
    return Counter(task.target for s in schedules for task in s if task.target is not None)


def fine_propagators(partition: Partition, serial: nn.Module) -> dict[Target, Fine]:
    """The subnetworks, and the head where there is one."""
    chain = partition.chain
    spans = {Target.fine(j): partition.piece(j) for j in range(1, partition.n + 1)}
    if partition.has_head:
        spans[HEAD] = (partition.bounds[-1], len(chain.layers))
    found = {}
    for target, (first, last) in spans.items():
        train = chain.segment(first, last, training=True)
        same = chain.train is chain.eval
        evaluate = train if same else chain.segment(first, last, training=False)
        title = "the head" if target == HEAD else f"subnetwork {target.number}"
        layers = dict.fromkeys((chain.layers[first].name, chain.layers[last - 1].name))
        found[target] = Fine(serial, train, evaluate, f"{title} ({' … '.join(layers)})")
    return found


def coarse_propagators(
    partition: Partition,
    serial: nn.Module,
    method: Parareal,
    coarse: Mapping[int, Coarse],
    registry: nn.ModuleDict,
    fine: Mapping[Target, Propagator],
) -> dict[Target, Propagator]:
    """What corrects every subnetwork, and what guesses in a coarse sweep."""
    found: dict[Target, Propagator] = {}
    for j, choice in coarse.items():
        label = f"the {choice.kind} coarse propagator of subnetwork {j}"
        leaves = len(partition.chain.state(partition.piece(j)[0]))
        own = _propagator(choice, serial, registry, str(j), label, leaves)
        part = own or fine[Target.fine(j)]
        found[Target.guess(j)] = part  # a coarse sweep makes the guesses; else replaced below
        if method.correction == "residual" and not choice.zero_preserving and j > 1:
            part = ZeroPreserving(part, shared=choice.module is None)
        found[Target.coarse(j)] = part
    return found


def _propagator(
    choice: Coarse,
    serial: nn.Module,
    registry: nn.ModuleDict,
    key: str,
    label: str,
    leaves: int,
) -> Propagator | None:
    if choice.segment is not None:
        return borrowed(serial, choice.segment, choice.averages, label)
    if choice.module is None:
        return None
    return Registered(registry, key, label, leaves=leaves, inputs=choice.inputs)


def guess_propagators(
    guesses: Mapping[int, Guess], serial: nn.Module, registry: nn.ModuleDict
) -> dict[Target, Propagator]:
    """What guesses the state at every interface from the network's inputs."""
    found: dict[Target, Propagator] = {}
    for j, guess in guesses.items():
        label = f"the guess network of interface {j}"
        if guess.segment is not None:
            own: Propagator = Fine(serial, guess.segment, guess.segment, label, borrows=True)
        else:
            own = Registered(registry, str(j), label, leaves=0, inputs=guess.inputs)
        found[Target.guess(j)] = own
    return found


def rule_of(method: Method, calibration: Calibration | None) -> Rule | None:
    """What decides sweeps while the network runs: its tolerance, and its certificate."""
    if isinstance(method, MGRIT):
        return None
    rule = None if method.tolerance is None else BelowTolerance(method.tolerance)
    if calibration is None or calibration.certificate is None:
        return rule
    return Certified(calibration.certificate, rule)


def share_rollback(parts: Mapping[Target, Propagator], rollback: Rollback) -> None:
    """What moves statistics notes it; what is made of another propagator leaves that to it."""
    for part in parts.values():
        (part.inner if isinstance(part, ZeroPreserving) else part).rollback = rollback
