"""Check: a network beside what it has to equal, or beside the serial one on data."""

from __future__ import annotations

import warnings
from typing import Annotated

import torch
import typer

from pararealize.cli.arguments import Checked, RankOptions, ReadingOptions, Shape
from pararealize.cli.options import check_range, example_of, names_of, refuse
from pararealize.cli.terminal import Printer
from pararealize.errors import SlowerThanSerialWarning


def check(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="A folder that was saved, or a model.")],
    read: ReadingOptions,
    ranks: RankOptions,
    model: Annotated[str, typer.Option("--model", help="The model of a saved folder.")] = "",
    n: Annotated[
        int | None, typer.Option("-n", help="Subnetworks: 2 of a model, those of a folder.")
    ] = None,
    shape: Shape = "",
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 0.0,
    data: Checked = "",
    agreement: Annotated[
        float | None, typer.Option(help="Share wanted with --data; that of the calibration.")
    ] = None,
) -> None:
    """Compare a network with what it has to equal; exit code 1 where it does not.

    With --data, the answers of a saved network with the serial one's on DATA: agreement and error
    by sweeps, what the certificate is worth, and latency; give data that was not calibrated with.
    On ranks it is run and timed there, with one sample and with as many as it was compiled for, or
    as --shape says; predictions are made of its parts as measured meanwhile. Without --data, two
    networks that have to be equal:

    On ranks, the network with the same one in one process. Else a model, cut in n and corrected by
    its own layers, which is exact, or a saved one with its own cuts and method made exact, with the
    model itself. All in float64. The memory it takes is said first.
    """
    if data:
        refuse(ctx, ("n", "tolerance"), "--data compares a saved network's answers")
    else:
        names = ("agreement", *names_of(ReadingOptions))
        refuse(ctx, names, "answers are compared with --data DATA")
    check_range("-n", 1 if n is None else n, 1)
    check_range("--tolerance", tolerance, 0)
    if agreement is not None:
        check_range("--agreement", agreement, 0, 1)
    ranks.start(ctx)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    from pararealize.cli import agreement as agreeing  # noqa: PLC0415  for this command only
    from pararealize.cli import differences, memory  # noqa: PLC0415

    comm = ranks.comm
    if data:
        question = agreeing.Question(target, model, data, agreement, example_of(shape))
        good = agreeing.check(question, read.reading, Printer.of(comm), comm)
    else:
        pair = differences.Pair(target, model, n, example_of(shape))
        memory.say_or_refuse(pair.needs, 1 if comm is None else comm.size, Printer.of(comm))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is not about speed
            found = differences.exact(pair) if comm is None else differences.on_ranks(pair, comm)
        good = differences.tell(*found, tolerance or differences.ROUNDING, Printer.of(comm))
    raise typer.Exit(int(not good))
