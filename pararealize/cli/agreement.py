"""Agreement: a saved network checked on data, as tables, sentences and a verdict."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pararealize.cli.comparison import Agreement, Comparison, SweepRow
from pararealize.cli.data import Reading, open_data
from pararealize.cli.specs import load_model
from pararealize.cli.terminal import Printer
from pararealize.errors import CertificateWarning, MethodError, ModelSpecError
from pararealize.explain.calibrated import ABOVE
from pararealize.explain.table import Table
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan
from pararealize.ir.shares import interval
from pararealize.loading import load
from pararealize.storage.read import read


@dataclass(frozen=True)
class Question:
    """A saved network, the model it was saved from, data, and the agreement wanted.

    ``None`` is the one that the network was calibrated for; an ``example`` has the shape that calls
    are timed with, where that is not the one it was compiled for.
    """

    folder: str
    model: str
    data: str
    agreement: float | None = None
    example: tuple[torch.Tensor, ...] | None = None


def check(question: Question, reading: Reading, say: Printer, comm: Any = None) -> bool:
    """Print how a saved network answers beside the serial one; whether they agree as wanted.

    Raises:
        ModelSpecError: no folder, or no model.
        MethodError: the network has no sweeps, or it is not known which agreement is wanted.
        CalibrationError, DataError: the data do not fit, or cannot be read.
        StorageError: the folder cannot be read.

    """
    if not Path(question.folder).is_dir() or not question.model:
        raise ModelSpecError(
            f"check --data needs a folder that was saved, and the model it was saved from: "
            f"pararealize check {question.folder} --model path/to/file.py:factory --data DATA."
        )
    data = open_data(question.data, reading)
    torch.manual_seed(0)
    saved = read(Path(question.folder)).plan
    wanted = _wanted(saved, question)
    model = load_model(question.model).eval()
    net = load(question.folder, model, example_inputs=question.example, comm=comm)
    comparison = Comparison(net, comm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)  # doubtful answers are counted
        found = comparison.over(data)
    good = found is None or found.called.agreement >= wanted
    if found is not None:
        ranks = 1 if comm is None else comm.size
        _print(found, saved, wanted, _latency(found, net.plan, ranks), say)
    return good if comm is None else bool(comm.bcast(good))


def _wanted(plan: Plan, question: Question) -> float:
    """What was asked for now, or when it was calibrated, or what it reached then."""
    if question.agreement is not None:
        if not 0 < question.agreement <= 1:
            raise MethodError(f"--agreement {question.agreement}: expected a share in (0, 1].")
        return question.agreement
    found = plan.calibration
    if found is None:
        raise MethodError(
            f"{question.folder} was not calibrated, so that it is not known how often it has to "
            "agree with the serial network: give --agreement 0.995."
        )
    return found.reached.agreement if found.wanted is None else found.wanted


def _print(found: Agreement, plan: Plan, wanted: float, latency: list[str], say: Printer) -> None:
    share = found.called.agreement
    low, high = interval(share, found.samples)
    verdict = "LESS often than" if share < wanted else "as often as"
    say(
        table(found, plan),
        *_certificate(found, plan),
        *_accuracy(found),
        *latency,
        f"It agrees with the serial network on {share:.2%} of {found.samples:,} samples (of all "
        f"such data {low:.2%} to {high:.2%}, with 95% confidence), {verdict} "
        f"wanted ({wanted:.2%}).",
    )


def table(found: Agreement, plan: Plan) -> Table:
    """Agreement and error by sweeps, here and when it was calibrated; an arrow marks its own."""
    then = {} if plan.calibration is None else {r.count: r for r in plan.calibration.chosen.sweeps}
    rows = [
        (*_cells(str(k), row), f"{then[k].agreement:.2%}" if k in then else "–")
        for k, row in found.sweeps.items()
    ]
    own = _sweeps(plan)
    return Table(
        f"{plan.model}, n = {plan.n}, beside the serial network on {found.samples:,} samples",
        ("sweeps", "agreement", "mean relative error", "agreement when calibrated"),
        [*rows, _cells("as it answers", found.called)],
        marked=[i for i, k in enumerate(found.sweeps) if k == own],
    )


def _cells(name: str, row: SweepRow) -> tuple[str, str, str]:
    return name, f"{row.agreement:.2%}", f"{row.error:.1e}"


def _sweeps(plan: Plan) -> int:
    """Sweeps that every call takes; MGRIT has none."""
    return plan.method.iterations if isinstance(plan.method, Parareal) else 0


def _certificate(found: Agreement, plan: Plan) -> list[str]:
    """What the certificate is worth on this data."""
    quality, calibration = found.quality, plan.calibration
    if quality is None or calibration is None or calibration.certificate is None:
        return []
    before = calibration.certificate
    return [
        f"Certificate: estimates cover {quality.coverage:.1%} of the true errors "
        f"({before.coverage:.1%} when calibrated), rank correlation {quality.correlation:.2f} "
        f"({before.correlation:.2f}), {quality.doubted:.1%} of the answers are doubtful "
        f"({before.doubted:.1%}); with the serial answers instead of those, {quality.fallback:.2%} "
        f"agree; {ABOVE[before.above]}."
    ]


def _accuracy(found: Agreement) -> list[str]:
    if found.accuracy is None:
        return []
    serial, own = found.accuracy
    return [f"Accuracy by the labels: {serial:.2%} serial, {own:.2%} as it answers."]


def _latency(found: Agreement, plan: Plan, ranks: int) -> list[str]:
    """Measured times for each number of samples, and how they relate, as predicted and measured."""
    shape = next(iter(plan.specs.values()))
    lines = []
    for row in found.latencies:
        size = ", ".join(map(str, (row.samples, *shape.shape[1:])))
        own, serial = row.seconds * 1e3, row.serial_seconds * 1e3
        said = f"Latency for [{size}], medians in turns, one thread: serial {serial:.3f} ms, this "
        expected = f"{row.predicted:.2f}× predicted from its parts as measured here, on"
        if ranks == 1:
            lines.append(
                f"{said}network {own:.3f} ms in one process, where no second device is used and "
                f"subnetworks run one after another; {expected} {plan.devices} devices (--ranks P "
                "measures)."
            )
        else:
            ratio = row.serial_seconds / row.seconds
            lines.append(f"{said}network {own:.3f} ms, {ratio:.2f}×; {expected} {ranks} ranks.")
    return lines
