"""Candidates: kinds of coarse propagators, built for the subnetworks of this rank."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pararealize.calibration.fit import Fitter
from pararealize.calibration.strides import Stride
from pararealize.calibration.subject import Subject
from pararealize.coarse.builder import build_step
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.registry import asked, candidates, saved_kinds, substitutes
from pararealize.coarse.setting import Setting
from pararealize.cost.probe import Probe
from pararealize.emit.fits import Fits
from pararealize.emit.propagators import correcting_propagators, registered_name
from pararealize.errors import CoarseError
from pararealize.ir.calibration import called
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.groups import Group
from pararealize.ir.plan import Piece, Plan
from pararealize.ir.target import HEAD, Kind, Target
from pararealize.propagators.propagator import Propagator, ZeroPreserving
from pararealize.schedule.parareal import guesser


@dataclass(frozen=True)
class Built:
    """The coarse propagators of one kind for a subject with its levels, of this rank.

    ``coarse`` is by what corrects a subnetwork or group, ``parts`` are propagators, ``registry``
    holds the networks with weights.
    """

    subject: Subject
    kind: str
    coarse: Mapping[Target, Coarse]
    parts: Mapping[Target, Propagator]
    registry: nn.ModuleDict

    @property
    def name(self) -> str:
        """What people call it."""
        return called(self.kind, self.subject.levels)

    def fitter(self, stride: Stride) -> Fitter:
        """What is fitted of a subnetwork or group."""
        subject = self.subject
        residual = subject.method.correction == "residual"
        guessing = stride.guess if residual else stride.target
        return Fitter(
            dict(self.registry.items()).get(registered_name(stride.target)),
            self.parts[guessing] if subject.guesses(stride) else None,
            self.parts[stride.target] if stride.start > 0 else None,
            residual=residual,
            head=subject.emission.propagators.get(HEAD) if stride.end == subject.n else None,
        )


def wanted(subject: Subject) -> list[Stride]:
    """What coarse propagators of this rank bridge: those from the start only guess."""
    first = 0 if subject.method.guess == "coarse" else 1
    mine = subject.pieces
    return [
        stride
        for stride in subject.strides
        if stride.start >= first and guesser(stride.end, subject.method, stride.start) in mine
    ]


def kinds(subject: Subject) -> dict[str, CoarseKind]:
    """The kinds to compare: all for ``"auto"``, else the network's, as its method calls it."""
    method = subject.method
    if method.coarse == "auto":
        return {str(kind): kind for kind in candidates()}
    kind = asked(method)
    return {method.coarse if isinstance(method.coarse, str) else str(kind): kind}


def build(subject: Subject, kind: str, seed: int) -> Built | str:
    """The coarse propagators of a kind, or why not; nothing where no subnetwork has such a one.

    Weights of their own start from the network's, or those that the network already has.
    """
    described = kinds(subject)[kind]
    found = {stride.target: _coarse(subject, described, stride, seed) for stride in wanted(subject)}
    has = any(own for _, own in found.values())
    if subject.transport is not None:
        has = any(subject.transport.exchange(has))
    if not has:
        return ""
    coarse = {target: choice for target, (choice, _) in found.items()}
    if _runs_elsewhere(subject, coarse):
        return "its groups would run layers of other ranks"
    serial, parts = subject.emission.serial, subject.emission.propagators
    modules = {registered_name(t): c.module for t, c in coarse.items() if c.module is not None}
    registry = nn.ModuleDict(modules).eval()
    fits = Fits.of(subject.emission)
    made = correcting_propagators(fits, serial, subject.method, coarse, registry, parts)
    if subject.method.guess == "network":
        made = {t: part for t, part in made.items() if t.kind is not Kind.GUESS}
    return Built(subject, kind, coarse, made, registry)


def _coarse(subject: Subject, kind: CoarseKind, stride: Stride, seed: int) -> tuple[Coarse, bool]:
    """A coarse propagator of the kind, or what stands in for it; and whether it is of the kind.

    Raises:
        CoarseError: none of them exists for the subnetwork or group.

    """
    if subject.method.coarse != "auto":
        return _compiled(subject, stride, seed), True
    for option in (kind, *substitutes()):
        try:
            return _built(subject, seed, stride, option), option == kind
        except CoarseError:
            continue
    return _built(subject, seed, stride), False


def _runs_elsewhere(subject: Subject, coarse: Mapping[Target, Coarse]) -> bool:
    """Whether a group of any rank would run layers of others; where it was compiled it has them."""
    if subject.transport is None or subject.method.coarse != "auto":
        return False
    runs = any(t.level > 2 and choice.segment is not None for t, choice in coarse.items())
    return any(subject.transport.exchange(runs))


def _compiled(subject: Subject, stride: Stride, seed: int) -> Coarse:
    """The one that the network has, with its weights where it has any."""
    emission, key, target = subject.emission, registered_name(stride.target), stride.target
    row, parts = _row(emission.plan, stride), emission.propagators
    registry = emission.registries["coarse"]
    if key in registry:
        corrector = parts.get(target)
        zero = corrector is not None and not isinstance(corrector, ZeroPreserving)
        inputs = (corrector or parts[stride.guess]).inputs
        module = copy.deepcopy(registry[key])
        said: dict[str, Any] = {"name": row.coarse_kind, "options": row.coarse_options}
        return Coarse(row.coarse, Cost(), module, None, inputs, zero_preserving=zero, **said)
    chosen = saved_kinds((row,), subject.method)
    return _built(subject, seed, stride, chosen.get(stride.number))


def _row(plan: Plan, stride: Stride) -> Piece | Group:
    """What a plan says of a subnetwork or group."""
    if stride.level == 2:
        return plan.pieces[stride.number - 1]
    groups = {(group.level, group.index): group for group in plan.groups}
    return groups[stride.level, stride.number]


def _built(subject: Subject, seed: int, stride: Stride, kind: CoarseKind | None = None) -> Coarse:
    torch.manual_seed(seed + stride.seed)
    method, machine = subject.method, subject.emission.plan.machine
    layers = subject.layers if stride.level > 2 else subject.emission.serial
    probe = Probe(subject.partition, layers, {}, seed + stride.seed)
    setting = Setting.of(probe.partition.chain, probe.model, machine, method)
    return build_step(probe, setting, method, stride.target, kind)
