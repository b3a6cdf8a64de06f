"""Complete: what a sweep evaluates, where a network was compiled for none, or for many."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pararealize.calibration.subject import Subject
from pararealize.coarse.guesses import build_guesses
from pararealize.emit.propagators import fine_propagators, guess_propagators
from pararealize.ir.schedule import targets
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered


def completed(subject: Subject) -> Subject:
    """The subject with all subnetworks and guesses of this rank that one sweep evaluates.

    A schedule of no sweep, or of several, does not need each of them, and they are left out when it
    is compiled. Guess networks that are made here are new ones.
    """
    emission, partition = subject.emission, subject.decisions.partition
    parts: dict[Target, Propagator] = dict(emission.propagators)
    every = targets(subject.schedule(1))
    if emission.transport is None:
        fine = fine_propagators(partition, emission.serial)
        parts = {**{target: fine[target] for target in every if target in fine}, **parts}
    here = {Target.guess(j - 1) for j in subject.pieces}
    missing = frozenset(t for t in every if t in here and t not in parts)
    made = build_guesses(partition, emission.serial, subject.method, emission.plan.machine, missing)
    if not made:
        return replace(subject, emission=replace(emission, propagators=parts))
    modules = {str(j): guess.module for j, guess in made.items() if guess.module is not None}
    old = emission.registries["guess"]
    registry = nn.ModuleDict({**dict(old.items()), **modules})
    for target, part in parts.items():
        if isinstance(part, Registered) and part.registry is old:
            parts[target] = part.within(registry)
    parts |= guess_propagators(made, emission.serial, registry)
    registries = {**emission.registries, "guess": registry.eval()}
    return replace(subject, emission=replace(emission, propagators=parts, registries=registries))
