"""Latency: measured seconds of the parts of a network, and what schedules of them would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from pararealize.analysis.simulate import predict
from pararealize.calibration.candidates import Built, wanted
from pararealize.calibration.observe import serial_schedule
from pararealize.calibration.subject import Subject
from pararealize.ir.chain import TensorSpec
from pararealize.ir.plan import Piece, Plan
from pararealize.passes.place import place
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.clock import medians
from pararealize.runtime.nest import map_tensors

RUNS = 7


def cut_to(record: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The inputs of a record with as many samples as the network was compiled for."""
    return {name: value[: specs[name].shape[0]] for name, value in record["inputs"].items()}


def measured_plan(subject: Subject, record: Mapping[str, Any]) -> Plan:
    """The plan with seconds of the network itself, and of its guesses, as measured here.

    Each is the median of a few evaluations without gradients, one subnetwork after another.
    """
    plan, inputs = subject.emission.plan, cut_to(record, subject.emission.plan.specs)
    run = subject.run(serial_schedule(subject.n, head=subject.decisions.partition.has_head), {})
    pairs = run(inputs)[1]
    names = {f"fine.{j}": None if j == 1 else pairs[j][1] for j in pairs}
    if subject.n in pairs and subject.decisions.partition.has_head:
        names["head"] = pairs[subject.n][0]
    parts = subject.emission.propagators
    if subject.method.guess == "network":
        names |= {name: None for name in parts if name.startswith("guess.")}
    seconds = together(subject, _time(parts, names, subject.named(inputs)))
    pieces = tuple(_with(piece, seconds) for piece in plan.pieces)
    head = seconds.get("head", 0.0)
    serial = sum(piece.seconds for piece in pieces) + head
    return replace(plan, pieces=pieces, head_seconds=head, serial_seconds=serial)


def _with(piece: Piece, seconds: Mapping[str, float]) -> Piece:
    guess = seconds.get(f"guess.{piece.index - 1}", piece.guess_seconds)
    return replace(
        piece,
        seconds=seconds[f"fine.{piece.index}"],
        guess_seconds=guess if piece.guess != "none" else 0.0,
    )


def coarse_plan(subject: Subject, plan: Plan, built: Built, record: Mapping[str, Any]) -> Plan:
    """The plan with a candidate's coarse propagators and their measured seconds."""
    inputs = cut_to(record, plan.specs)
    run = subject.run(serial_schedule(subject.n, head=subject.decisions.partition.has_head), {})
    pairs = run(inputs)[1]
    names = {f"coarse.{j}": None if j == 1 else pairs[j][1] for j in wanted(subject)}
    seconds = together(subject, _time(built.parts, names, subject.named(inputs)))
    mine = {
        j: (c.kind, 0 if c.module is None else sum(p.numel() for p in c.module.parameters()))
        for j, c in built.coarse.items()
    }
    kinds = together(subject, mine)
    pieces = tuple(
        replace(
            piece,
            coarse=kinds[piece.index][0],
            coarse_parameters=kinds[piece.index][1],
            coarse_seconds=seconds[f"coarse.{piece.index}"],
            coarse_launches=0,
        )
        if piece.index in kinds
        else piece
        for piece in plan.pieces
    )
    return replace(plan, pieces=pieces)


def predicted(subject: Subject, plan: Plan, iterations: int) -> float:
    """Seconds of one evaluation with so many sweeps, on its ranks or one device a subnetwork."""
    ranks = plan.ranks or subject.n
    return predict(plan, place(subject.schedule(iterations), subject.n, ranks)).makespan


def _time(
    parts: Mapping[str, Propagator], states: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Median seconds of propagators on these states (``None``: the network's inputs alone)."""

    def call(part: Propagator, state: Any) -> Callable[[], object]:
        extra = [inputs[name] for name in part.inputs]
        return partial(part, *extra) if state is None else partial(part, state, *extra)

    names = [name for name in states if name in parts]
    with torch.no_grad():
        calls = [_waited(call(parts[name], states[name])) for name in names]
        return dict(zip(names, medians(*calls, runs=RUNS), strict=True)) if calls else {}


def _waited(function: Callable[[], Any]) -> Callable[[], None]:
    """The function, and the wait for the device it works on."""

    def run() -> None:
        devices: set[torch.device] = set()
        map_tensors(lambda tensor: devices.add(tensor.device), function())
        for device in devices:
            if device.type != "cpu":
                torch.get_device_module(device).synchronize(device)

    return run


def together(subject: Subject, found: dict[Any, Any]) -> dict[Any, Any]:
    """What all ranks found."""
    if subject.transport is None:
        return found
    return {k: v for part in subject.transport.exchange(found) for k, v in part.items()}
