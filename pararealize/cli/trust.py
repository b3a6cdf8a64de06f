"""Trust: predicted seconds of a network on the ranks of this machine, beside measured ones."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pararealize.calibration.latency import Stand, renewed_plan
from pararealize.calibration.observe import serial_run
from pararealize.calibration.subject import evaluating
from pararealize.cli import variants
from pararealize.cli.benchmark import settle
from pararealize.cli.comparison import subject_of
from pararealize.cli.launch import launch, meet
from pararealize.compiler import pararealize
from pararealize.cost.predict import Use, predict
from pararealize.cost.rates import measured_machine
from pararealize.errors import PararealizeError, SlowerThanSerialWarning
from pararealize.explain.table import Table
from pararealize.ir.groups import Group
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.plan import Piece, Plan
from pararealize.models import odenet
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.connect import connect

T = TypeVar("T", Piece, Group)

#: Steps of each kind that are measured in turns, at least; those that count, and their largest
#: share of time in which a rank waited for a core; and seconds in which as many are looked for.
ROUNDS, KEPT, CLEAN, PATIENCE = 12, 7, 0.02, 15.0
#: Steps of a network without work.
EMPTY = 20
#: Nanoseconds that a process has run and waited for a core.
SCHEDULED = Path("/proc/self/schedstat")
#: What is measured, and whether it is a training step.
STEPS = {"inference": False, "training step": True}


@dataclass(frozen=True)
class Row:
    """A step on so many ranks, of one thread each, that share so many cores: seconds."""

    step: str
    ranks: int
    cores: int
    serial: float
    predicted: float
    measured: float


def measure(arguments: Sequence[str], ranks: Sequence[int]) -> list[Row]:
    """Rows of this command's network on each number of ranks, measured one after another.

    Raises:
        PararealizeError: ranks have failed; they have said why.

    """
    rows: list[Row] = []
    for count in ranks:
        with tempfile.TemporaryDirectory(prefix="pararealize-") as folder:
            into = Path(folder, "rows.json")
            if launch([*arguments, "--into", str(into)], count):
                raise PararealizeError(f"--measure: the network did not run on {count} ranks.")
            rows += [Row(**row) for row in json.loads(into.read_text(encoding="utf-8"))]
    return rows


def run(model: nn.Module, method: Method, x: Sequence[Tensor] | None, comm: Any, into: str) -> None:
    """Measure the network on the ranks of ``comm``, and write the rows ``into`` a file."""
    torch.set_num_threads(1)
    rows = [_row(model, method, x, comm, step) for step in STEPS]
    if comm.rank == 0:
        Path(into).write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


def _row(model: nn.Module, method: Method, x: Sequence[Tensor] | None, comm: Any, step: str) -> Row:
    training, ranks = STEPS[step], comm.size
    machine = measured_machine(connect(comm))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is measured
        net = pararealize(
            model, ranks, method=method, example_inputs=x, machine=machine, cost="measured",
            comm=comm if ranks > 1 else None,
        )  # fmt: skip
    (spec,) = net.plan.specs.values()
    given = torch.randn(spec.shape, dtype=spec.dtype, generator=torch.Generator().manual_seed(1))
    if not training:
        settle(model, given)
    model.train(training)
    net.train(training)
    entries = (
        variants.parallel(net, given, ranks, training=training),
        variants.serial(model, given, comm.rank, 1, training=training),
        variants.ceiling(net, given, ranks, training=training),
    )

    serial, ours, together = _undisturbed(*entries, comm=comm)
    cores = len(os.sched_getaffinity(0))
    plan = _timed_parts(net, given)
    scale = serial / plan.serial_seconds
    hindrance = _hindrance(plan, together / scale, cores) if ranks > 1 else 1.0
    use = Use(cores, scale, 2.0 if training else 1.0, hindrance)  # adjoints travel back
    predicted = predict(plan, net.schedule, use).makespan
    predicted += _empty(method, net.plan.chunks, comm, training=training) if ranks > 1 else 0.0
    return Row(step, ranks, cores, serial, predicted, ours)


def _hindrance(plan: Plan, together: float, cores: int) -> float:
    """How many times as long subnetworks take when all ranks compute, beyond sharing the cores.

    They share caches and memory as well, and the system moves ranks between cores. ``together`` is
    what the subnetworks take side by side, without guesses, corrections and messages.
    """
    own = [piece.seconds for piece in plan.pieces]
    own[-1] += plan.head_seconds
    return max(1.0, together / max(*own, sum(own) / cores))


def _empty(method: Method, parts: int, comm: Any, *, training: bool) -> float:
    """Seconds of a step of a network of almost no work in as many subnetworks on the same ranks.

    Its corrections take as many slices of the batch.

    That is what ranks take to agree and to launch, and to be woken where cores serve several.
    """
    depth = 2
    if isinstance(method, MGRIT):
        factor = method.coarsening
        factor = factor if isinstance(factor, int) else factor[0]
        method, depth = replace(method, levels=2, coarsening=factor), 2 * factor
    net, x = odenet(depth * comm.size, width=4, in_features=2, classes=2), torch.zeros(parts, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        own = pararealize(
            net, comm.size, method=method, example_inputs=(x,), comm=comm, chunks=parts
        )
    step = variants.parallel(own.train(training), x, comm.size, training=training)
    seconds = median(_step(step, comm)[1] for _ in range(EMPTY))
    return max(0.0, seconds - own.plan.parallel_seconds)


def _undisturbed(
    ours: variants.Variant, serial: variants.Variant, together: variants.Variant, *, comm: Any
) -> tuple[float, float, float]:
    """Seconds of the serial network, of ours, and of subnetworks side by side, least disturbed.

    By how long ranks waited for a core that something else had. There are :data:`ROUNDS` rounds or
    more: as many as fit into :data:`PATIENCE` seconds, until enough were not disturbed. The ratio
    in one round is what lasts where a machine is now slow and then fast: the others are the median
    of the serial network's seconds times their median ratio to it.
    """
    rounds: list[tuple[float, float, float, float]] = []
    end, done = time.perf_counter() + PATIENCE, False
    while not done:
        steps = [_step(variant, comm) for variant in (ours, serial, together)]
        waits, (one, alone, side) = zip(*steps, strict=True)
        rounds.append((max(waits[:2]), alone, one / alone, side / alone))
        clean = sum(share < CLEAN for share, *_ in rounds[1:])
        over = clean >= KEPT or time.perf_counter() > end
        done = comm.bcast(over and len(rounds) > ROUNDS)
    kept = sorted(rounds[1:])[:KEPT]
    seconds, ratio, side = (median(column) for column in list(zip(*kept, strict=True))[1:])
    return seconds, seconds * ratio, seconds * side


def _step(variant: variants.Variant, comm: Any) -> tuple[float, float]:
    """The share of a step in which its ranks waited for a core, and its seconds."""
    meet(comm)
    waited, begin = _waited(), time.perf_counter()
    variant.run()
    meet(comm)
    seconds = time.perf_counter() - begin
    return comm.allreduce(_waited() - waited) / seconds, seconds


def _waited() -> float:
    """Seconds that this process has waited for a core, where the system says so (Linux)."""
    try:
        return int(SCHEDULED.read_text(encoding="ascii").split()[1]) * 1e-9
    except OSError:
        return 0.0


def _timed_parts(net: ParallelNetwork, x: Tensor) -> Plan:
    """The plan with the seconds of subnetworks, guesses and coarse networks as measured here.

    Coarse networks of slices of the batch are timed on one: a quarter of it takes more than a
    quarter of the time.
    """
    if net.plan.n == 1 or not isinstance(net.plan.method, Parareal):
        return net.plan
    plan, parts = _timed(net, x), net.plan.chunks
    if parts == 1:
        return plan
    # In train mode guesses normalise by the batch, which one sample is too few for.
    with evaluating(net, subject_of(net).emission.serial):
        slices = _timed(net, x[: max(1, len(x) // parts)])
    pieces = _with_coarse(plan.pieces, slices.pieces, parts)
    return replace(plan, pieces=pieces, groups=_with_coarse(plan.groups, slices.groups, parts))


def _with_coarse(wholes: Sequence[T], slices: Sequence[T], parts: int) -> tuple[T, ...]:
    """Subnetworks or groups whose coarse networks take so many times what one slice takes."""
    pairs = zip(wholes, slices, strict=True)
    return tuple(replace(whole, coarse_seconds=parts * one.coarse_seconds) for whole, one in pairs)


def _timed(net: ParallelNetwork, x: Tensor) -> Plan:
    subject, inputs = subject_of(net), dict.fromkeys(net.plan.specs, x)
    return renewed_plan(Stand(subject, inputs, serial_run(subject)(inputs)[1]))


def table(name: str, rows: Sequence[Row]) -> Table:
    """Predicted and measured times, by step and ranks."""
    cells = [
        (
            row.step,
            f"{row.ranks} × 1",
            f"{row.serial * 1e3:.3g}",
            f"{row.predicted * 1e3:.3g}",
            f"{row.measured * 1e3:.3g}",
            f"{row.predicted / row.measured - 1:+.0%}",
            f"{row.serial / row.predicted:.2f}×",
            f"{row.serial / row.measured:.2f}×",
        )
        for row in sorted(rows, key=lambda row: (row.step, row.ranks))
    ]
    cores = rows[0].cores if rows else 0
    title = f"predicted and measured: {name} on ranks that share {cores} cores of this machine"
    columns = ("", "ranks × threads", "serial ms", "predicted", "measured", "off by")
    return Table(title, (*columns, "speedup predicted", "measured"), cells, left=("",))
