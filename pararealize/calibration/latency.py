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
from pararealize.calibration.subject import Pairs, Subject
from pararealize.cost.captured import capturing
from pararealize.cost.measure import captured_seconds, medians, threads, wait
from pararealize.cost.predict import count
from pararealize.ir.chain import TensorSpec
from pararealize.ir.plan import Piece, Plan
from pararealize.ir.target import HEAD, Kind, Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.capture.device import Device
from pararealize.runtime.values.pytree import map_tensors

RUNS = 7


def cut_to(inputs: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """Inputs of so many samples as the network was compiled for, repeated where they are few."""
    return {
        name: value[torch.arange(specs[name].shape[0]) % len(value)]
        for name, value in inputs.items()
    }


@dataclass(frozen=True)
class Stand:
    """What parts of a network are timed on: inputs of one call, and the states they lead to.

    ``pairs`` are the states after and before the subnetworks of this rank.
    """

    subject: Subject
    inputs: Mapping[str, Any]
    pairs: Pairs

    @classmethod
    def on(cls, subject: Subject, record: Mapping[str, Any]) -> Stand:
        """On a stored record, cut to the size that the network was compiled for."""
        inputs = cut_to(record["inputs"], subject.emission.plan.specs)
        return cls(subject, inputs, serial_run(subject)(inputs)[1])

    def before(self, j: int) -> Any:
        """The state before subnetwork j; there is none before the first."""
        return None if j == 1 else self.pairs[j][1]

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

    def _capturing(self) -> Device | None:
        """What records graphs where the inputs lie, if the network was compiled for them."""
        if self.subject.emission.plan.machine.sharing is None:
            return None
        tensors = (value for value in self.inputs.values() if isinstance(value, Tensor))
        return capturing(next((tensor.device for tensor in tensors), torch.device("cpu")))


def measured_plan(stand: Stand) -> Plan:
    """The plan with seconds of the network itself, and of its guesses, as measured here."""
    subject, pairs = stand.subject, stand.pairs
    plan, parts = subject.emission.plan, subject.emission.propagators
    states = {Target.fine(j): stand.before(j) for j in pairs}
    if subject.n in pairs and subject.head:
        states[HEAD] = pairs[subject.n][0]
    if subject.method.guess == "network":
        states |= dict.fromkeys(target for target in parts if target.kind is Kind.GUESS)
    seconds = stand.time(parts, states)
    pieces = tuple(_timed(piece, seconds) for piece in plan.pieces)
    head = seconds.get(HEAD, 0.0)
    serial = sum(piece.seconds for piece in pieces) + head
    return replace(plan, pieces=pieces, head_seconds=head, serial_seconds=serial)


def renewed_plan(stand: Stand) -> Plan:
    """The plan with the seconds of all its parts, coarse ones too, as measured here and now."""
    subject, plan = stand.subject, measured_plan(stand)
    parts = subject.emission.propagators
    states = {Target.fine(j): stand.before(j) for j in stand.pairs}
    coarse = [j for j in wanted(subject) if Target.coarse(j) in parts]
    seconds = stand.time(parts, states | {Target.coarse(j): stand.before(j) for j in coarse})
    samples = [len(next(iter(stand.inputs.values()))), next(iter(plan.specs.values())).shape[0]]
    pieces = tuple(
        replace(
            piece,
            coarse_seconds=seconds.get(Target.coarse(piece.index), piece.coarse_seconds),
            coarse_launches=0,
            interface_bytes=piece.interface_bytes * samples[0] // samples[1],
        )
        for piece in plan.pieces
    )
    return replace(plan, pieces=pieces)


def _timed(piece: Piece, seconds: Mapping[Target, float]) -> Piece:
    guess = seconds.get(Target.guess(piece.index - 1), piece.guess_seconds)
    guess = guess if piece.guess != "none" else 0.0
    return replace(piece, seconds=seconds[Target.fine(piece.index)], guess_seconds=guess)


def coarse_plan(stand: Stand, plan: Plan, built: Built) -> Plan:
    """The plan with a candidate's coarse propagators and their measured seconds.

    They are timed in turns with the subnetworks, as they run in a call: alone, their weights would
    stay in the caches.
    """
    subject = stand.subject
    states = {Target.fine(j): stand.before(j) for j in stand.pairs}
    states |= {Target.coarse(j): stand.before(j) for j in wanted(subject)}
    seconds = stand.time({**subject.emission.propagators, **built.parts}, states)
    names = ("coarse", "coarse_kind", "coarse_options", "coarse_parameters")
    coarse = built.coarse.items()
    kinds = subject.together({j: (c.kind, c.name, c.options, count(c.module)) for j, c in coarse})
    pieces = list(plan.pieces)
    for j, values in kinds.items():
        found: dict[str, Any] = dict(zip(names, values, strict=True))
        found["coarse_seconds"] = seconds[Target.coarse(j)]
        pieces[j - 1] = replace(pieces[j - 1], **found, coarse_launches=0)
    return replace(plan, pieces=tuple(pieces))


def _waited(function: Callable[[], Any]) -> Callable[[], None]:
    """The function, and the wait for the device it works on."""

    def run() -> None:
        devices: set[torch.device] = set()
        map_tensors(lambda tensor: devices.add(tensor.device), function())
        for device in devices:
            wait(device)

    return run
