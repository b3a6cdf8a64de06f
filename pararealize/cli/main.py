"""The command line: what commands and options there are."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from pararealize.cli import arguments as args
from pararealize.cli.data import Reading
from pararealize.cli.launch import is_first, launch, world
from pararealize.cli.options import (
    Cutting,
    check_kinds,
    example_of,
    integers,
    method_of,
    numbers,
    parareal_of,
    refuse,
)
from pararealize.cli.specs import load_model
from pararealize.errors import PararealizeError, SlowerThanSerialWarning
from pararealize.explain.explain import WIDTH, show
from pararealize.ir.calibration import Fitting
from pararealize.ir.methods import Parareal
from pararealize.network import ParallelNetwork

app = typer.Typer(
    help="Turn the depth of a PyTorch network into parallelism.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(debug: args.Debug = False) -> None:
    """Turn the depth of a PyTorch network into parallelism."""


@app.command()
def explain(
    ctx: typer.Context,
    model: args.Model,
    n: args.Count = "auto",
    coarse: args.Coarse = "network",
    correction: args.Correction = "residual",
    iterations: args.Iterations = 1,
    tolerance: args.Tolerance = None,
    guess: args.Guess = "network",
    coarse_budget: args.Budget = Parareal.coarse_budget,
    coarse_depth: args.Depth = str(Parareal.coarse_depth),
    coarse_rank: args.Low = Parareal.coarse_rank,
    mgrit: args.Grid = "",
    shape: args.Shape = "",
    blocks: args.Blocks = "",
    cut: args.Cut = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the schedule (PNG and SVG).")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the schedule as well.")] = False,
) -> None:
    """Show what parallel depth would cost and bring, before anything runs."""
    _refuse_parareal(ctx, mgrit, coarse)
    sizes = (coarse_depth, coarse_budget, coarse_rank)
    parareal = parareal_of(coarse, correction, iterations, guess, *sizes, tolerance)
    method = method_of(mgrit, parareal)
    cutting = Cutting(n, blocks, tuple(cut or ()))
    net = cutting.compile(load_model(model), method, example_of(shape))
    console = Console(width=max(Console().width, WIDTH))
    show(net.plan, console)
    if text:
        console.print(_placed(net).text(), highlight=False, soft_wrap=True)
    if picture is not None:
        _draw(net, picture, console)


@app.command()
def convert(
    ctx: typer.Context,
    model: args.Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    n: args.Count = "auto",
    weights: args.Weights = None,
    data: args.Calibrate = "",
    agreement: args.Agreement = 0.995,
    above: args.Above = Fitting.above,
    epochs: args.Epochs = Fitting.epochs,
    rate: args.Rate = Fitting.rate,
    batch: args.Batch = Reading.batch,
    best: args.Best = False,
    mean: args.Mean = "",
    std: args.Std = "",
    seed: Annotated[int, typer.Option(help="Of fitting.")] = Fitting.seed,
    coarse: Annotated[
        str, typer.Option(help=f"{args.COARSE} {args.CALIBRATED.format('auto')}")
    ] = "",
    correction: Annotated[
        str, typer.Option(help=f"residual or difference. {args.CALIBRATED.format('difference')}")
    ] = "",
    iterations: args.Iterations = 1,
    tolerance: args.Tolerance = None,
    guess: Annotated[
        str, typer.Option(help=f"network or coarse. {args.CALIBRATED.format('coarse')}")
    ] = "",
    coarse_budget: args.Budget = Parareal.coarse_budget,
    coarse_depth: args.Depth = str(Parareal.coarse_depth),
    coarse_rank: args.Low = Parareal.coarse_rank,
    mgrit: args.Grid = "",
    shape: args.Shape = "",
    blocks: args.Blocks = "",
    cut: args.Cut = None,
    ranks: args.Ranks = 1,
    worker: args.Worker = "",
) -> None:
    """Compile a model and write it: safetensors weights and a JSON plan in one folder.

    With --calibrate, a trained one: coarse networks are fitted to what DATA makes of it, kinds of
    them are compared, and the fastest that agrees with the serial network on the share --agreement
    of held-out samples is written. The model's own weights stay as they are. Where none agrees as
    often, nothing is written and the exit code is 2.
    """
    if not data:
        refuse(ctx, args.FITTING, "nothing is fitted without --calibrate DATA")
    usual = ("auto", "difference", "coarse") if data else ("network", "residual", "network")
    coarse, correction, guess = (
        a or b for a, b in zip((coarse, correction, guess), usual, strict=True)
    )
    _refuse_parareal(ctx, mgrit, coarse)
    sizes = (coarse_depth, coarse_budget, coarse_rank)
    parareal = parareal_of(coarse, correction, iterations, guess, *sizes, tolerance)
    method = method_of(mgrit, parareal)
    if ranks > 1 and not worker:
        raise typer.Exit(launch(ctx.obj, ranks))
    from pararealize.cli import convert as converting  # noqa: PLC0415  for this command only

    cutting = Cutting(n, blocks, tuple(cut or ()))
    chosen = converting.Conversion(model, out, cutting, method, shape, weights, data)
    comm = world() if worker else None
    quiet = comm is not None and comm.rank != 0
    console = Console(width=max(Console().width, WIDTH), quiet=quiet)
    if not data:
        converting.convert(chosen, console, comm)
        return
    reading = Reading(batch, numbers(mean, "--mean"), numbers(std, "--std"))
    fitting = Fitting(
        agreement=agreement,
        above=above,
        epochs=epochs,
        rate=rate,
        batch=batch,
        best=best,
        seed=seed,
    )
    converting.calibrate(chosen, reading, fitting, console, comm)


@app.command()
def demo(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for pictures and the network.")] = Path(
        "demo-output"
    ),
    depth: Annotated[int, typer.Option(help="Layers of the ResNet: 9k + 2.")] = 56,
    epochs: Annotated[int, typer.Option(help="Passes over the training digits.")] = 3,
    counts: Annotated[str, typer.Option("-n", help="Numbers of subnetworks.")] = "2,3,6",
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads to train with, on every rank.")] = 1,
    ranks: args.Ranks = 1,
    worker: args.Worker = "",
) -> None:
    """Train a ResNet on real digits, serial and parallel in depth, and compare."""
    if ranks > 1 and not worker:
        raise typer.Exit(launch(ctx.obj, ranks))
    from pararealize.cli.demo import Demo, run  # noqa: PLC0415  matplotlib is for this command only
    from pararealize.cli.training import Recipe  # noqa: PLC0415

    torch.set_num_threads(threads)
    recipe = Recipe(epochs=epochs, seed=seed)
    chosen = Demo(depth=depth, counts=integers(counts, "-n"), recipe=recipe, seed=seed)
    comm = world() if worker else None
    quiet = comm is not None and comm.rank != 0
    run(chosen, out, Console(width=max(Console().width, WIDTH), quiet=quiet), comm)


@app.command()
def bench(
    ctx: typer.Context,
    model: args.Model,
    ranks: args.Ranks = 2,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,4,16",
    n: Annotated[int | None, typer.Option("-n", help="Subnetworks; as many as ranks.")] = None,
    coarse: args.Coarse = "network",
    correction: args.Correction = "residual",
    iterations: args.Iterations = 1,
    guess: args.Guess = "network",
    coarse_budget: args.Budget = Parareal.coarse_budget,
    coarse_depth: args.Depth = str(Parareal.coarse_depth),
    coarse_rank: args.Low = Parareal.coarse_rank,
    mgrit: args.Grid = "",
    shape: Annotated[str, typer.Option(help="Shape of one sample.")] = "3,32,32",
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 5,
    inference: Annotated[bool, typer.Option("--inference", help="No gradients, eval.")] = False,
    allocator: Annotated[str, typer.Option(help="heap or default, for all alike.")] = "heap",
    cost: Annotated[str, typer.Option(help="What balances: predicted or measured.")] = "predicted",
    trace: Annotated[Path | None, typer.Option(help="Timelines for Perfetto.")] = None,
    worker: args.Worker = "",
) -> None:
    """Time the network on ranks beside serial PyTorch, pipelines, DDP and the ceiling."""
    _refuse_parareal(ctx, mgrit, coarse)
    if not worker:
        raise typer.Exit(launch(ctx.obj, ranks, allocator))
    from pararealize.cli.bench import Bench, run  # noqa: PLC0415  it needs torch.distributed

    sizes = (coarse_depth, coarse_budget, coarse_rank)
    parareal = parareal_of(coarse, correction, iterations, guess, *sizes)
    method = method_of(mgrit, parareal)
    chosen = Bench(
        integers(batch, "--batch"), rounds, not inference, n, method, allocator, cost, trace
    )
    torch.manual_seed(0)
    run(chosen, load_model(model), integers(shape, "--shape"), world(), worker)


@app.command()
def check(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="A folder that was saved, or a model.")],
    model: Annotated[str, typer.Option("--model", help="The model of a saved folder.")] = "",
    n: Annotated[int, typer.Option("-n", help="Subnetworks, where a model is given.")] = 2,
    ranks: Annotated[int, typer.Option(help="Compare so many ranks with one process.")] = 1,
    shape: args.Shape = "",
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 0.0,
    data: args.Checked = "",
    agreement: Annotated[
        float | None, typer.Option(help="Share wanted with --data; that of the calibration.")
    ] = None,
    batch: args.Batch = Reading.batch,
    mean: args.Mean = "",
    std: args.Std = "",
    worker: args.Worker = "",
) -> None:
    """Compare a network with what it has to equal; exit code 1 where it does not.

    With --data, the answers of a saved network with the serial one's on DATA: agreement and error
    by sweeps, what the certificate is worth, and latency; give data that was not calibrated with.
    On ranks it is run and timed there. Without --data, two networks that have to be equal:

    On ranks, the network with the same one in one process. Else a model, or a saved one, cut in n
    and corrected by its own layers, which is exact, with the model itself. All in float64.
    """
    if data:
        refuse(ctx, ("n", "tolerance", "shape"), "--data compares a saved network's answers")
    else:
        refuse(ctx, ("agreement", *args.READING), "answers are compared with --data DATA")
    if ranks > 1 and not worker:
        raise typer.Exit(launch(ctx.obj, ranks))
    from pararealize.cli import check as checking  # noqa: PLC0415  for this command only

    torch.manual_seed(0)
    torch.set_num_threads(1)
    example = example_of(shape)
    comm = world() if worker else None
    console = Console(width=max(Console().width, WIDTH), quiet=comm is not None and comm.rank != 0)
    if data:
        from pararealize.cli import agreement as agreeing  # noqa: PLC0415

        question = agreeing.Question(target, model, data, agreement)
        reading = Reading(batch, numbers(mean, "--mean"), numbers(std, "--std"))
        raise typer.Exit(int(not agreeing.check(question, reading, console, comm)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is not about speed
        if worker:
            title, rows = checking.on_ranks(target, model, n, example, world())
        else:
            title, rows = checking.exact(target, model, n, example)
    tolerance = tolerance or checking.ROUNDING
    console.print(checking.table(rows, title, tolerance))
    raise typer.Exit(int(any(not row.relative <= tolerance for row in rows)))


def _refuse_parareal(ctx: typer.Context, mgrit: str, coarse: str) -> None:
    if mgrit:
        refuse(ctx, args.PARAREAL, "with --mgrit, name its own options there")
    check_kinds(ctx, coarse)


def _placed(net: ParallelNetwork) -> Any:
    from pararealize.schedule.place import place  # noqa: PLC0415

    return place(net.schedule, net.plan.n, net.plan.n)


def _draw(net: ParallelNetwork, path: Path, console: Console) -> None:
    from pararealize.cli.plot import draw_schedule, write_figure  # noqa: PLC0415
    from pararealize.cost.predict import predict  # noqa: PLC0415

    files = write_figure(draw_schedule(predict(net.plan, _placed(net))), path)
    console.print("Written: " + ", ".join(map(str, files)), highlight=False)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a readable error is one paragraph and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, obj=arguments)
    except (PararealizeError, ValueError) as error:
        if "--debug" in arguments:
            raise
        if "--worker" in arguments and not is_first(arguments[arguments.index("--worker") + 1]):
            sys.exit(2)
        text = f"pararealize: {error}"  # shapes in brackets are no markup
        Console(stderr=True).print(text, style="red", highlight=False, markup=False)
        sys.exit(2)
