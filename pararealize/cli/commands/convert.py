"""Convert: a model, or a trained one, compiled and written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pararealize.cli import arguments
from pararealize.cli.options import names_of, refuse
from pararealize.cli.terminal import Printer
from pararealize.cli.zoos import is_untrained, untrained


def convert(
    ctx: typer.Context,
    model: arguments.Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    options: arguments.MethodOptions,
    cutting: arguments.Cutting,
    fit: arguments.FittingOptions,
    read: arguments.ReadingOptions,
    ranks: arguments.RankOptions,
    weights: arguments.Weights = None,
    data: arguments.Calibrate = "",
    tolerance: arguments.Tolerance = None,
) -> None:
    """Compile a model and write it: safetensors weights and a JSON plan in one folder.

    With --calibrate, a trained one: coarse networks are fitted to what DATA makes of it, kinds of
    them are compared, and the fastest that agrees with the serial network on the share --agreement
    of held-out samples is written. The model's own weights stay as they are. Where none agrees as
    often, nothing is written and the exit code is 2.
    """
    if not data:
        names = names_of(arguments.FittingOptions, arguments.ReadingOptions)
        refuse(ctx, names, "nothing is fitted without --calibrate DATA")
    method = options.method(ctx, tolerance, calibrated=bool(data))
    ranks.start(ctx)
    from pararealize.cli import conversion  # noqa: PLC0415  for this command only

    chosen = conversion.Conversion(model, out, cutting, method, weights, data)
    comm = ranks.comm
    if weights is None and is_untrained(model):
        Printer.of(comm)(untrained(model))
    if data:
        fitting = fit.fitting(read.batch)
        conversion.calibrate(chosen, read.reading, fitting, Printer.of(comm), comm)
    else:
        conversion.convert(chosen, Printer.of(comm), comm)
