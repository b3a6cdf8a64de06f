"""Latency: measured seconds of the parts of a network, and what schedules of them would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pararealize.calibration.candidates import Built, wanted
from pararealize.calibration.observe import serial_run
from pararealize.calibration.strides import Interval, piece
from pararealize.calibration.subject import Subject
from pararealize.cost.captured import capturing
from pararealize.cost.measure import captured_seconds, medians, threads, wait
from pararealize.cost.predict import correction, count
from pararealize.emit.propagators import registered_name
from pararealize.ir.chain import TensorSpec
from pararealize.ir.plan import Piece, Plan
from pararealize.ir.target import HEAD, Kind, Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.capture.device import Device
from pararealize.runtime.values.pytree import map_tensors

RUNS = 7

#: What a plan says of seconds and launches, by what takes them.
Costs = Mapping[Target, Mapping[str, Any]]


def cut_to(inputs: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Inputs of so many samples as the network was compiled for, repeated where they are few."""
    return {
        name: value[torch.arange(specs[name].shape[0]) % len(value)]
        for name, value in inputs.items()
    }


@dataclass(frozen=True)
class Stand:
    """What parts of a network are timed on: inputs of one call, and the states they lead to.

    ``states`` are those before and after the subnetworks and groups of this rank, by interfaces.
    """

    subject: Subject
    inputs: Mapping[str, Any]
    states: Mapping[Interval, tuple[Any, Any]]

    @classmethod
    def on(cls, subject: Subject, record: Mapping[str, Any]) -> Stand:
        """On a stored record, cut to the size that the network was compiled for."""
        inputs = cut_to(record["inputs"], subject.emission.plan.specs)
        return cls(subject, inputs, serial_run(subject)(inputs)[1])

    def before(self, interval: Interval) -> Any:
        """The state before a subnetwork or group; there is none before the first."""
        return None if interval[0] == 0 else self.states[interval][0]

    @property
    def fine(self) -> dict[Target, Any]:
        """The subnetworks of this rank, with the states before them."""
        return {Target.fine(j): self.before(piece(j)) for j in self.subject.pieces}

    def time(
        self, parts: Mapping[Target, Propagator], states: Mapping[Target, Any]
    ) -> dict[Target, float]:
        """Median seconds of propagators on these states (``None``: the inputs alone), of all ranks.

        They are evaluated without gradients, in turns, on one thread, as a rank has; each in a
        graph where subnetworks share a device that records them.
        """
        inputs = self.subject.named(self.inputs)

        def call(target: Target) -> Callable[[], Any]:
            part, state = parts[target], states[target]
            given = [] if state is None else [state]
            return partial(part, *given, *(inputs[name] for name in part.inputs))

        targets = [target for target in states if target in parts]
        calls, device = [call(target) for target in targets], self._capturing()
        with torch.no_grad(), threads(1):
            if device is not None:
                seconds = captured_seconds(calls, device, runs=RUNS)
            else:
                seconds = medians(*map(_waited, calls), runs=RUNS) if targets else []
        return self.subject.together(dict(zip(targets, seconds, strict=True)))

    @property
    def is_measured(self) -> bool:
        """Whether the machine that the network was compiled for may be this one.

        What subnetworks that share a device take is not to be seen where nothing records graphs.
        """
        shared = self.subject.emission.plan.machine.sharing is not None
        return not shared or self._capturing() is not None

    def _capturing(self) -> Device | None:
        """What records graphs where the inputs lie, if the network was compiled for them."""
        if self.subject.emission.plan.machine.sharing is None:
            return None
        tensors = (value for value in self.inputs.values() if isinstance(value, Tensor))
        return capturing(next((tensor.device for tensor in tensors), torch.device("cpu")))


def network_plan(stand: Stand) -> Plan:
    """The plan with seconds of the network itself, and of its guesses, as measured here.

    Where the machine that it is for is elsewhere, with the seconds that were predicted.
    """
    return _measured_plan(stand) if stand.is_measured else stand.subject.emission.plan


def _measured_plan(stand: Stand) -> Plan:
    subject, parts = stand.subject, stand.subject.emission.propagators
    plan, states = subject.emission.plan, stand.fine
    if subject.n in subject.pieces and subject.head:
        states[HEAD] = stand.states[piece(subject.n)][1]
    if subject.method.guess == "network":
        states |= dict.fromkeys(target for target in parts if target.kind is Kind.GUESS)
    seconds = stand.time(parts, states)
    pieces = tuple(_timed(piece, seconds) for piece in plan.pieces)
    head = seconds.get(HEAD, 0.0)
    serial = sum(piece.seconds for piece in pieces) + head
    return replace(plan, pieces=pieces, head_seconds=head, serial_seconds=serial)


def renewed_plan(stand: Stand) -> Plan:
    """The plan with the seconds of all its parts, coarse ones too, as measured here and now."""
    subject, plan = stand.subject, _measured_plan(stand)
    parts = subject.emission.propagators
    coarse = {s.target: stand.before(s.interval) for s in wanted(subject) if s.target in parts}
    seconds = stand.time(parts, stand.fine | coarse)
    samples = [len(next(iter(stand.inputs.values()))), next(iter(plan.specs.values())).shape[0]]
    found = {t: {"coarse_seconds": s, "coarse_launches": 0} for t, s in seconds.items()}
    pieces = tuple(
        replace(piece, interface_bytes=piece.interface_bytes * samples[0] // samples[1])
        for piece in plan.pieces
    )
    return _corrected(replace(plan, pieces=pieces), found)


def _timed(piece: Piece, seconds: Mapping[Target, float]) -> Piece:
    guess = seconds.get(Target.guess(piece.index - 1), piece.guess_seconds)
    guess = guess if piece.guess != "none" else 0.0
    return replace(piece, seconds=seconds[Target.fine(piece.index)], guess_seconds=guess)


def coarse_plan(stand: Stand, plan: Plan, built: Built) -> Plan:
    """The plan with a candidate's levels and coarse propagators, and the seconds of these."""
    subject, names = built.subject, ("coarse", "coarse_kind", "coarse_options", "coarse_parameters")
    kinds = subject.together(
        {t: (c.kind, c.name, c.options, count(c.module)) for t, c in built.coarse.items()}
    )
    timed = (_measured if stand.is_measured else _predicted)(stand, built)
    found: dict[Target, dict[str, Any]] = {
        target: {**dict(zip(names, values, strict=True)), **timed.get(target, {})}
        for target, values in kinds.items()
    }
    levels = replace(plan, method=subject.method, groups=subject.emission.plan.groups)
    return _corrected(levels, found)


def _measured(stand: Stand, built: Built) -> Costs:
    """Seconds of coarse propagators, timed in turns with the subnetworks.

    So they run in a call: alone, their weights would stay in the caches.
    """
    subject = built.subject
    coarse = {s.target: stand.before(s.interval) for s in wanted(subject)}
    every = {**subject.emission.propagators, **built.parts}
    seconds = stand.time(every, stand.fine | coarse)
    return {t: {"coarse_seconds": s, "coarse_launches": 0} for t, s in seconds.items()}


def _predicted(stand: Stand, built: Built) -> Costs:
    """Seconds of those that the network did not have; of the others the plan has them."""
    subject = built.subject
    registry = stand.subject.emission.registries["coarse"]
    known = set(registry) if subject.method.coarse != "auto" else set[str]()
    costs = {
        target: correction(choice, subject.method)
        for target, choice in built.coarse.items()
        if registered_name(target) not in known
    }
    return subject.together(
        {t: {"coarse_seconds": c.seconds, "coarse_launches": c.launches} for t, c in costs.items()}
    )


def _corrected(plan: Plan, found: Mapping[Target, Mapping[str, Any]]) -> Plan:
    """The plan with what is known of coarse propagators."""

    def known(row: Any, target: Target) -> Any:
        return replace(row, **found.get(target, {}))

    return replace(
        plan,
        pieces=tuple(known(piece, Target.coarse(piece.index)) for piece in plan.pieces),
        groups=tuple(known(g, Target.coarse(g.index, g.level)) for g in plan.groups),
    )


def _waited(function: Callable[[], Any]) -> Callable[[], None]:
    """The function, and the wait for the device it works on."""

    def run() -> None:
        devices: set[torch.device] = set()
        map_tensors(lambda tensor: devices.add(tensor.device), function())
        for device in devices:
            wait(device)

    return run
