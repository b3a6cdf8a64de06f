"""Candidates: kinds of coarse propagators, built for the subnetworks of this rank."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pararealize.calibration.fit import Fitter
from pararealize.calibration.subject import Subject
from pararealize.coarse.builder import build_one
from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.registry import asked, candidates, saved_kinds, substitutes
from pararealize.coarse.setting import Setting
from pararealize.cost.probe import Probe
from pararealize.emit.fits import Fits
from pararealize.emit.propagators import coarse_propagators
from pararealize.errors import CoarseError
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.target import HEAD, Kind, Target
from pararealize.propagators.propagator import Propagator, ZeroPreserving
from pararealize.schedule.parareal import guesser


@dataclass(frozen=True)
class Built:
    """The coarse propagators of one kind, by subnetwork of this rank.

    ``parts`` are propagators, ``registry`` holds the networks with weights.
    """

    kind: str
    coarse: Mapping[int, Coarse]
    parts: Mapping[Target, Propagator]
    registry: nn.ModuleDict

    def fitter(self, subject: Subject, j: int) -> Fitter:
        """What is fitted of subnetwork j."""
        key, residual = str(j), subject.method.correction == "residual"
        sweeps = subject.method.guess == "coarse" and j < subject.n
        guessing = Target.guess(j) if residual else Target.coarse(j)
        return Fitter(
            dict(self.registry.items()).get(key),
            self.parts[guessing] if sweeps else None,
            self.parts[Target.coarse(j)] if j > 1 else None,
            residual=residual,
            head=subject.emission.propagators.get(HEAD) if j == subject.n else None,
        )


def wanted(subject: Subject) -> list[int]:
    """Subnetworks whose coarse propagator lies on this rank: that of the first only guesses."""
    first = 1 if subject.method.guess == "coarse" else 2
    pieces = range(first, subject.n + 1)
    return [j for j in pieces if guesser(j, subject.method) in subject.pieces]


def kinds(subject: Subject) -> dict[str, CoarseKind]:
    """The kinds to compare: all for ``"auto"``, else the network's, as its method calls it."""
    method = subject.method
    if method.coarse == "auto":
        return {str(kind): kind for kind in candidates()}
    kind = asked(method)
    return {method.coarse if isinstance(method.coarse, str) else str(kind): kind}


def build(subject: Subject, kind: str, seed: int) -> Built | None:
    """The coarse propagators of a kind; ``None`` where no subnetwork has such a one.

    Weights of their own start from the network's, or those that the network already has.
    """
    described = kinds(subject)[kind]
    found = {j: _coarse(subject, described, j, seed) for j in wanted(subject)}
    has = any(own for _, own in found.values())
    if subject.transport is not None:
        has = any(subject.transport.exchange(has))
    if not has:
        return None
    coarse = {j: choice for j, (choice, _) in found.items()}
    serial, parts = subject.emission.serial, subject.emission.propagators
    modules = {str(j): c.module for j, c in coarse.items() if c.module is not None}
    registry = nn.ModuleDict(modules).eval()
    fits = Fits.of(subject.emission)
    made = coarse_propagators(fits, serial, subject.method, coarse, registry, parts)
    if subject.method.guess == "network":
        made = {t: part for t, part in made.items() if t.kind is not Kind.GUESS}
    return Built(kind, coarse, made, registry)


def _coarse(subject: Subject, kind: CoarseKind, j: int, seed: int) -> tuple[Coarse, bool]:
    """A coarse propagator of the kind, or what stands in for it; and whether it is of the kind.

    Raises:
        CoarseError: none of them exists for the subnetwork.

    """
    if subject.method.coarse != "auto":
        return _compiled(subject, j, seed), True
    for option in (kind, *substitutes()):
        try:
            return _built(subject, seed, j, option), option == kind
        except CoarseError:
            continue
    return _built(subject, seed, j), False


def _compiled(subject: Subject, j: int, seed: int) -> Coarse:
    """The one that the network has, with its weights where it has any."""
    emission, key = subject.emission, str(j)
    piece, parts = emission.plan.pieces[j - 1], emission.propagators
    registry = emission.registries["coarse"]
    if key in registry:
        corrector = parts.get(Target.coarse(j))
        zero = corrector is not None and not isinstance(corrector, ZeroPreserving)
        inputs = (corrector or parts[Target.guess(j)]).inputs
        module = copy.deepcopy(registry[key])
        said: dict[str, Any] = {"name": piece.coarse_kind, "options": piece.coarse_options}
        return Coarse(piece.coarse, Cost(), module, None, inputs, zero_preserving=zero, **said)
    chosen = saved_kinds((piece,), subject.method)
    return _built(subject, seed, j, chosen.get(j))


def _built(subject: Subject, seed: int, j: int, kind: CoarseKind | None = None) -> Coarse:
    torch.manual_seed(seed + j)
    machine = subject.emission.plan.machine
    probe = Probe(subject.partition, subject.emission.serial, {}, seed + j)
    setting = Setting.of(probe.partition.chain, probe.model, machine, subject.method)
    return build_one(probe, setting, subject.method, j, kind)
