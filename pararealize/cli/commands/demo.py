"""Demo: networks trained on real digits, serial and parallel in depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import torch
import typer

from pararealize.cli.arguments import RankOptions
from pararealize.cli.options import check_range, integers
from pararealize.cli.terminal import Printer

#: Most trainings, which take a minute each.
MOST_SEEDS = 100
#: Most threads of a process; torch asks for all of them at once.
MOST_THREADS = 1024


def demo(
    ctx: typer.Context,
    ranks: RankOptions,
    out: Annotated[Path, typer.Option(help="Folder for pictures and the network.")] = Path(
        "demo-output"
    ),
    depth: Annotated[int, typer.Option(help="Layers of the ResNet: 9k + 2.")] = 56,
    epochs: Annotated[int, typer.Option(help="Passes over the training digits.")] = 2,
    counts: Annotated[str, typer.Option("-n", help="Numbers of subnetworks.")] = "2",
    seed: Annotated[int, typer.Option(help="Of weights and batches, the first one.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many, one after another.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads to train with, on every rank.")] = 1,
    minutes: Annotated[float, typer.Option(help="That converting may take.")] = 0.5,
) -> None:
    """Train a ResNet on real digits, serial and parallel in depth; time both; convert it.

    What is measured is measured on this machine, on two ranks, and said as it is.
    """
    each = integers(counts, "-n", 1)
    check_range("--epochs", epochs, 1)
    check_range("--seed", seed, 0)
    check_range("--seeds", seeds, 1, MOST_SEEDS)
    check_range("--threads", threads, 1, MOST_THREADS)
    check_range("--minutes", minutes, 0.01)
    ranks.start(ctx)
    from pararealize.cli.demonstration import Demo, run  # noqa: PLC0415  matplotlib may be missing
    from pararealize.cli.seeds import MOST  # noqa: PLC0415
    from pararealize.cli.training import Recipe  # noqa: PLC0415

    torch.set_num_threads(threads)
    chosen = Demo(
        depth=depth,
        counts=each,
        recipe=Recipe(epochs=epochs),
        seeds=tuple(range(seed, seed + seeds)),
        workers=min(MOST, os.cpu_count() or 1) if threads == 1 else 1,
        minutes=minutes,
    )
    comm = ranks.comm
    run(chosen, out, Printer.of(comm), comm)
