"""Bench: a network on ranks beside its peers and its ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from pararealize.cli.arguments import MethodOptions, Model, Worker
from pararealize.cli.launch import launch, world
from pararealize.cli.options import check_range, integers, sizes
from pararealize.cli.specs import load_model


def bench(
    ctx: typer.Context,
    model: Model,
    options: MethodOptions,
    ranks: Annotated[int, typer.Option(help="Processes under mpiexec, one thread each.")] = 2,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,4,16",
    n: Annotated[int | None, typer.Option("-n", help="Subnetworks; as many as ranks.")] = None,
    shape: Annotated[str, typer.Option(help="Shape of one sample.")] = "3,32,32",
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 5,
    inference: Annotated[bool, typer.Option("--inference", help="No gradients, eval.")] = False,
    allocator: Annotated[str, typer.Option(help="heap or default, for all alike.")] = "heap",
    cost: Annotated[str, typer.Option(help="What balances: predicted or measured.")] = "predicted",
    trace: Annotated[Path | None, typer.Option(help="Timelines for Perfetto.")] = None,
    worker: Worker = "",
) -> None:
    """Time the network on ranks beside serial PyTorch, pipelines, DDP and the ceiling."""
    method = options.method(ctx)
    batches, each = integers(batch, "--batch", 1), sizes(shape, "--shape")
    for name, number in (("--rounds", rounds), ("-n", 1 if n is None else n)):
        check_range(name, number, 1)
    if not worker:
        raise typer.Exit(launch(ctx.obj, ranks, allocator))
    from pararealize.cli.benchmark import Bench, run  # noqa: PLC0415  it needs torch.distributed

    chosen = Bench(batches, rounds, not inference, n, method, allocator, cost, trace)
    torch.manual_seed(0)
    run(chosen, load_model(model), each, world(), worker)
