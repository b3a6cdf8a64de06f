"""Conversion: a trained network made parallel in depth, and written only if it agrees as asked."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.cli.arguments import Cutting
from pararealize.cli.data import Data, Reading, open_data
from pararealize.cli.options import example_of
from pararealize.cli.specs import load_model
from pararealize.cli.terminal import Printer
from pararealize.cli.weights import fill
from pararealize.errors import CalibrationError, DataError, PararealizeError, StorageError
from pararealize.explain.advice import would_win
from pararealize.explain.calibrated import best, certificate, choice
from pararealize.explain.table import Table
from pararealize.ir.calibration import Calibration, Candidate, Fitting, Sweeps
from pararealize.ir.methods import Method
from pararealize.ir.shares import interval
from pararealize.network import ParallelNetwork

#: Minutes that a calibration gets where compiling took all of them.
LEAST = 0.1


@final
@dataclass(frozen=True)
class Conversion:
    """What is converted, and where to.

    ``weights`` is a checkpoint, ``data`` names what to calibrate with (nothing: not at all).
    """

    model: str
    out: Path
    cutting: Cutting
    method: Method
    weights: Path | None = None
    data: str = ""


def convert(chosen: Conversion, say: Printer, comm: Any = None) -> None:
    """Compile a model and write it, without a calibration."""
    net = chosen.cutting.compile(_model(chosen), chosen.method, comm=comm)
    _write(net, chosen.out, say)


def calibrate(
    chosen: Conversion, reading: Reading, fitting: Fitting, say: Printer, comm: Any = None
) -> None:
    """Compile a trained model, calibrate it, print what was compared, and write it.

    Raises:
        CalibrationError: the agreement is not reached, and the best is not enough; nothing is
            written then.
        DataError: data or weights cannot be read, or do not fit.
        StorageError: the folder cannot be written.

    """
    begun = time.monotonic()
    if chosen.out.exists() and not chosen.out.is_dir():
        raise StorageError(f"{chosen.out} is no folder: name another one with -o.")
    data = open_data(chosen.data, reading)
    _check_count(data, reading.batch, chosen.data)
    model = _model(chosen).eval()
    if fitting.minutes is not None:
        say(f"{chosen.model} is compiled and calibrated, in {fitting.minutes:g} minutes at most.")
    with say.progress as progress, progress.task(f"compile {type(model).__name__}", 1) as advance:
        net = _compiled(chosen, data, model, comm)
        advance()
    spent = (time.monotonic() - begun) / 60
    left = None if fitting.minutes is None else max(LEAST, fitting.minutes - spent)
    # The best is looked at in any case: if it is not enough, the table says by how much.
    asked = replace(fitting, best=True, faster=not fitting.best, minutes=left)
    options: dict[str, Any] = vars(asked)
    found = net.calibrate(data.batches(net.plan.specs), progress=say.progress, **options)
    say(candidates_table(found), f"Calibrated: {choice(found)}", *_read(found, data))
    if found.certificate is not None:
        say(certificate(found.certificate))
    if not fitting.best:
        _check_worth(net, found, chosen.out)
    _write(net, chosen.out, say)


def _check_worth(net: ParallelNetwork, found: Calibration, out: Path) -> None:
    """Raise where the network agrees too seldom, or would be slower than the serial one.

    Raises:
        CalibrationError: so it is; says what to do.

    """
    if found.required is not None and found.reached.agreement < found.required:
        raise CalibrationError(_unreached(found, net.plan.n, out))
    if net.plan.speedup <= 1:
        raise CalibrationError(
            f"the fastest network that agrees would be slower than serial: predicted "
            f"{net.plan.speedup:.2f}× on {net.plan.devices} devices, from costs measured here. "
            f"{out} was not written. {would_win(net.plan, found.iterations)} --best writes it all "
            "the same."
        )


def _read(found: Calibration, data: Data) -> list[str]:
    """Whether time was too short for all of the data."""
    used = found.samples + found.held_out
    if data.samples is None or used >= data.samples:
        return []
    return [f"There was time for {used:,} of {data.samples:,} samples; --minutes gives more."]


def candidates_table(calibration: Calibration) -> Table:
    """The kinds of coarse networks that were compared, one a row; an arrow marks the chosen."""
    counts = sorted({row.count for c in calibration.candidates for row in c.sweeps})
    sweeps = [f"{k} sweeps" if k == 0 else str(k) for k in counts]
    chosen = [c.name == calibration.name for c in calibration.candidates]
    reached, needed = calibration.reached, calibration.required
    return Table(
        f"coarse networks compared on {calibration.held_out:,} held-out samples: agreement with "
        "serial after so many sweeps, and how many times as fast as serial it is predicted to be "
        "after some of them",
        ("coarse", "parameters", "step error", "contraction", *sweeps, "predicted"),
        [
            _row(calibration, c, counts, reached if own else best(c, needed))
            for c, own in zip(calibration.candidates, chosen, strict=True)
        ],
        left=("coarse",),
        marked=[i for i, own in enumerate(chosen) if own],
    )


def _row(
    calibration: Calibration, candidate: Candidate, counts: Iterable[int], row: Sweeps
) -> list[str]:
    agreed = {found.count: f"{found.agreement:.1%}" for found in candidate.sweeps}
    return [
        candidate.name,
        f"{candidate.parameters:,}",
        _worst(fit.step_error for fit in candidate.fits),
        _worst(fit.contraction for fit in candidate.fits),
        *(agreed.get(k, "–") for k in counts),
        f"{calibration.serial_seconds / row.seconds:.2f}× ({row.count})",
    ]


def _worst(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.2g}" if known else "–"


def _model(chosen: Conversion) -> nn.Module:
    torch.manual_seed(0)
    model = load_model(chosen.model)
    if chosen.weights is not None:
        fill(model, chosen.weights)
    return model


def _compiled(chosen: Conversion, data: Data, model: nn.Module, comm: Any) -> ParallelNetwork:
    example = _example(chosen, data, model)
    try:
        return chosen.cutting.compile(model, chosen.method, example, comm)
    except RuntimeError as error:
        whole = example is not None and not example[0].is_floating_point()
        if isinstance(error, PararealizeError) or not whole:
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(
            f"{chosen.data} holds whole numbers, which {type(model).__name__} does not take "
            f"({reason}): save the samples as the network was trained on them."
        ) from error


def _example(chosen: Conversion, data: Data, model: nn.Module) -> tuple[Tensor, ...] | None:
    """Zeros of the shape given, or of that of the data; ``None``: it is inferred."""
    given, like = example_of(chosen.cutting.shape), data.example(model)
    if given is None or like is None:
        return given or like
    return tuple(leaf.to(like[0].dtype) for leaf in given)


def _check_count(data: Data, batch: int, name: str) -> None:
    if data.samples is not None and data.samples < batch:
        raise CalibrationError(
            f"{name} holds {data.samples} samples, fewer than one batch of {batch}: give more, or "
            f"write --batch {max(1, data.samples // 5)}."
        )


def _unreached(found: Calibration, n: int, out: Path) -> str:
    row, asked = found.reached, found.wanted or 1.0
    low, high = interval(row.agreement, found.held_out)
    margin = (
        f"; to be sure of {asked:.2%} on other data {found.required:.2%} of {found.held_out:,} "
        "held-out samples have to agree"
        if found.required is not None and row.agreement >= asked
        else ""
    )
    return (
        f"no coarse network agrees with the serial network on {asked:.2%} of the held-out "
        f"samples with fewer than {n} sweeps: the best is {found.name!r} with {row.agreement:.2%} "
        f"({low:.2%} to {high:.2%}) after {row.count}{margin}. {out} was not written. Ask for less "
        f"(--agreement {max(0.001, int(low * 1e3) / 1e3):g}), give more data, --epochs or "
        "--minutes, take fewer subnetworks, "
        "or accept the best with --best."
    )


def _write(net: ParallelNetwork, out: Path, say: Printer) -> None:
    net.save(out)
    verdict = [] if net.plan.calibration is None else [net.plan.verdict]
    say(str(net.plan), *verdict, f"Written: {out}")
