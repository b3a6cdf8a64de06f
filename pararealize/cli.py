"""The command line: what commands and options there are."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from pararealize.analysis.explain import WIDTH, show
from pararealize.emit.network import ParallelNetwork
from pararealize.errors import PararealizeError, SlowerThanSerialWarning
from pararealize.ir.calibration import ABOVE, Fitting
from pararealize.ir.methods import Parareal
from pararealize.specs import FORMS, load_model
from pararealize.studies import data as sources
from pararealize.studies.data import Reading
from pararealize.studies.launch import is_first, launch, world
from pararealize.studies.options import (
    Cutting,
    check_kinds,
    example_of,
    integers,
    method_of,
    numbers,
    parareal_of,
    refuse,
)

app = typer.Typer(
    help="Turn the depth of a PyTorch network into parallelism.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[str, typer.Argument(help=f"{FORMS}.")]
Count = Annotated[str, typer.Option("-n", help="Number of subnetworks, or 'auto'.")]
COARSE = f"One of {', '.join(Parareal.CHOICES['coarse'])}."
Coarse = Annotated[str, typer.Option(help=COARSE)]
Correction = Annotated[str, typer.Option(help="residual or difference.")]
Iterations = Annotated[int, typer.Option(help="Parareal sweeps.")]
Tolerance = Annotated[
    float | None, typer.Option(help="Further sweeps while a relative jump is larger.")
]
Guess = Annotated[str, typer.Option(help="network or coarse.")]
Budget = Annotated[
    float, typer.Option(help="Largest share of a subnetwork that a coarse network may cost.")
]
Depth = Annotated[
    str, typer.Option(help="Blocks that a coarse network keeps: of all, or of each, such as 4,1.")
]
Low = Annotated[float, typer.Option(help="Share of their rank that factored layers keep.")]
Grid = Annotated[
    str,
    typer.Option("--mgrit", help="MGRIT instead, with options: coarsening=8,levels=3,coarse=mean."),
]
Shape = Annotated[
    str, typer.Option(help="Input shape such as 2,3,224,224, where it cannot be inferred.")
]
Cut = Annotated[list[str] | None, typer.Option("--cut", help="Module to cut after; repeat.")]
Blocks = Annotated[
    str, typer.Option(help="Name of the list of blocks, where the network cannot be traced.")
]
Ranks = Annotated[int, typer.Option(help="Processes under mpiexec, one thread each.")]
Worker = Annotated[str, typer.Option(hidden=True)]
#: Options that some others leave without an effect.
READING = ("batch", "mean", "std")
FITTING = ("agreement", "above", "epochs", "rate", "best", "seed", *READING)
PARAREAL = (
    *("coarse", "correction", "iterations", "tolerance", "guess", "coarse_budget"),
    *("coarse_depth", "coarse_rank"),
)
#: What a default depends on.
CALIBRATED = "By default {} with --calibrate."
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Trained weights of MODEL: .safetensors, or .pt of tensors."),
]
Calibrate = Annotated[
    str, typer.Option("--calibrate", metavar="DATA", help=f"Fit to DATA: {sources.FORMS}.")
]
Checked = Annotated[
    str, typer.Option("--data", metavar="DATA", help=f"Compare on DATA: {sources.FORMS}.")
]
Agreement = Annotated[
    float, typer.Option(help="Share of held-out answers that have to be the serial network's.")
]
Above = Annotated[str, typer.Option(help=f"What a doubtful answer leads to: {', '.join(ABOVE)}.")]
Epochs = Annotated[int, typer.Option(help="Passes over the data in each round of fitting.")]
Rate = Annotated[float, typer.Option(help="Largest learning rate of fitting.")]
Batch = Annotated[int, typer.Option(help="Samples that are read at a time.")]
Best = Annotated[
    bool, typer.Option("--best", help="Write the best network even if it agrees less often.")
]
Mean = Annotated[
    str, typer.Option(help="Of images in [0, 1], to subtract: one number, or one a channel.")
]
Std = Annotated[str, typer.Option(help="Of images, to divide by, likewise.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of readable errors.")]


@app.callback()
def options(debug: Debug = False) -> None:
    """Turn the depth of a PyTorch network into parallelism."""


@app.command()
def explain(
    ctx: typer.Context,
    model: Model,
    n: Count = "auto",
    coarse: Coarse = "network",
    correction: Correction = "residual",
    iterations: Iterations = 1,
    tolerance: Tolerance = None,
    guess: Guess = "network",
    coarse_budget: Budget = Parareal.coarse_budget,
    coarse_depth: Depth = str(Parareal.coarse_depth),
    coarse_rank: Low = Parareal.coarse_rank,
    mgrit: Grid = "",
    shape: Shape = "",
    blocks: Blocks = "",
    cut: Cut = None,
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
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    n: Count = "auto",
    weights: Weights = None,
    data: Calibrate = "",
    agreement: Agreement = 0.995,
    above: Above = Fitting.above,
    epochs: Epochs = Fitting.epochs,
    rate: Rate = Fitting.rate,
    batch: Batch = Reading.batch,
    best: Best = False,
    mean: Mean = "",
    std: Std = "",
    seed: Annotated[int, typer.Option(help="Of fitting.")] = Fitting.seed,
    coarse: Annotated[str, typer.Option(help=f"{COARSE} {CALIBRATED.format('auto')}")] = "",
    correction: Annotated[
        str, typer.Option(help=f"residual or difference. {CALIBRATED.format('difference')}")
    ] = "",
    iterations: Iterations = 1,
    tolerance: Tolerance = None,
    guess: Annotated[
        str, typer.Option(help=f"network or coarse. {CALIBRATED.format('coarse')}")
    ] = "",
    coarse_budget: Budget = Parareal.coarse_budget,
    coarse_depth: Depth = str(Parareal.coarse_depth),
    coarse_rank: Low = Parareal.coarse_rank,
    mgrit: Grid = "",
    shape: Shape = "",
    blocks: Blocks = "",
    cut: Cut = None,
    ranks: Ranks = 1,
    worker: Worker = "",
) -> None:
    """Compile a model and write it: safetensors weights and a JSON plan in one folder.

    With --calibrate, a trained one: coarse networks are fitted to what DATA makes of it, kinds of
    them are compared, and the fastest that agrees with the serial network on the share --agreement
    of held-out samples is written. The model's own weights stay as they are. Where none agrees as
    often, nothing is written and the exit code is 2.
    """
    if not data:
        refuse(ctx, FITTING, "nothing is fitted without --calibrate DATA")
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
    from pararealize.studies import convert as converting  # noqa: PLC0415  for this command only

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
    ranks: Ranks = 1,
    worker: Worker = "",
) -> None:
    """Train a ResNet on real digits, serial and parallel in depth, and compare."""
    if ranks > 1 and not worker:
        raise typer.Exit(launch(ctx.obj, ranks))
    from pararealize.studies.demo import Demo, run  # noqa: PLC0415  matplotlib is for this command only
    from pararealize.studies.training import Recipe  # noqa: PLC0415

    torch.set_num_threads(threads)
    recipe = Recipe(epochs=epochs, seed=seed)
    chosen = Demo(depth=depth, counts=integers(counts, "-n"), recipe=recipe, seed=seed)
    comm = world() if worker else None
    quiet = comm is not None and comm.rank != 0
    run(chosen, out, Console(width=max(Console().width, WIDTH), quiet=quiet), comm)


@app.command()
def bench(
    ctx: typer.Context,
    model: Model,
    ranks: Ranks = 2,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,4,16",
    n: Annotated[int | None, typer.Option("-n", help="Subnetworks; as many as ranks.")] = None,
    coarse: Coarse = "network",
    correction: Correction = "residual",
    iterations: Iterations = 1,
    guess: Guess = "network",
    coarse_budget: Budget = Parareal.coarse_budget,
    coarse_depth: Depth = str(Parareal.coarse_depth),
    coarse_rank: Low = Parareal.coarse_rank,
    mgrit: Grid = "",
    shape: Annotated[str, typer.Option(help="Shape of one sample.")] = "3,32,32",
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.")] = 5,
    inference: Annotated[bool, typer.Option("--inference", help="No gradients, eval.")] = False,
    allocator: Annotated[str, typer.Option(help="heap or default, for all alike.")] = "heap",
    cost: Annotated[str, typer.Option(help="What balances: predicted or measured.")] = "predicted",
    trace: Annotated[Path | None, typer.Option(help="Timelines for Perfetto.")] = None,
    worker: Worker = "",
) -> None:
    """Time the network on ranks beside serial PyTorch, pipelines, DDP and the ceiling."""
    _refuse_parareal(ctx, mgrit, coarse)
    if not worker:
        raise typer.Exit(launch(ctx.obj, ranks, allocator))
    from pararealize.studies.bench import Bench, run  # noqa: PLC0415  it needs torch.distributed

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
    shape: Shape = "",
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 0.0,
    data: Checked = "",
    agreement: Annotated[
        float | None, typer.Option(help="Share wanted with --data; that of the calibration.")
    ] = None,
    batch: Batch = Reading.batch,
    mean: Mean = "",
    std: Std = "",
    worker: Worker = "",
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
        refuse(ctx, ("agreement", *READING), "answers are compared with --data DATA")
    if ranks > 1 and not worker:
        raise typer.Exit(launch(ctx.obj, ranks))
    from pararealize.studies import check as checking  # noqa: PLC0415  for this command only

    torch.manual_seed(0)
    torch.set_num_threads(1)
    example = example_of(shape)
    comm = world() if worker else None
    console = Console(width=max(Console().width, WIDTH), quiet=comm is not None and comm.rank != 0)
    if data:
        from pararealize.studies import agreement as agreeing  # noqa: PLC0415

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
        refuse(ctx, PARAREAL, "with --mgrit, name its own options there")
    check_kinds(ctx, coarse)


def _placed(net: ParallelNetwork) -> Any:
    from pararealize.passes.place import place  # noqa: PLC0415

    return place(net.schedule, net.plan.n, net.plan.n)


def _draw(net: ParallelNetwork, path: Path, console: Console) -> None:
    from pararealize.analysis.plot import draw_schedule, write_figure  # noqa: PLC0415
    from pararealize.analysis.simulate import predict  # noqa: PLC0415

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
