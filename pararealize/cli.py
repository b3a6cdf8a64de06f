"""The command line: ``pararealize demo``, ``explain`` and ``convert``."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from pararealize.analysis.explain import WIDTH, show
from pararealize.compiler import pararealize
from pararealize.emit.network import ParallelNetwork
from pararealize.errors import MethodError, PararealizeError, SlowerThanSerialWarning
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.specs import FORMS, load_model
from pararealize.studies.launch import is_first, launch, world

app = typer.Typer(
    help="Turn the depth of a PyTorch network into parallelism.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[str, typer.Argument(help=f"{FORMS}.")]
Count = Annotated[str, typer.Option("-n", help="Number of subnetworks, or 'auto'.")]
Coarse = Annotated[str, typer.Option(help=f"One of {', '.join(Parareal.CHOICES['coarse'])}.")]
Correction = Annotated[str, typer.Option(help="residual or difference.")]
Iterations = Annotated[int, typer.Option(help="Parareal sweeps.")]
Tolerance = Annotated[
    float | None, typer.Option(help="Further sweeps while a relative jump is larger.")
]
Guess = Annotated[str, typer.Option(help="network or coarse.")]
Budget = Annotated[
    float, typer.Option(help="Largest share of a subnetwork that a coarse network may cost.")
]
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
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of readable errors.")]


@app.callback()
def options(debug: Debug = False) -> None:
    """Turn the depth of a PyTorch network into parallelism."""


@app.command()
def explain(
    model: Model,
    n: Count = "auto",
    coarse: Coarse = "network",
    correction: Correction = "residual",
    iterations: Iterations = 1,
    tolerance: Tolerance = None,
    guess: Guess = "network",
    coarse_budget: Budget = Parareal.coarse_budget,
    mgrit: Grid = "",
    shape: Shape = "",
    blocks: Blocks = "",
    cut: Cut = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the schedule (PNG and SVG).")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the schedule as well.")] = False,
) -> None:
    """Show what parallel depth would cost and bring, before anything runs."""
    method = _method(mgrit, coarse, correction, iterations, guess, coarse_budget, tolerance)
    net = _compile(model, n, method, shape, cut, blocks)
    console = Console(width=max(Console().width, WIDTH))
    show(net.plan, console)
    if text:
        console.print(_placed(net).text(), highlight=False, soft_wrap=True)
    if picture is not None:
        _draw(net, picture, console)


@app.command()
def convert(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    n: Count = "auto",
    coarse: Coarse = "network",
    correction: Correction = "residual",
    iterations: Iterations = 1,
    tolerance: Tolerance = None,
    guess: Guess = "network",
    coarse_budget: Budget = Parareal.coarse_budget,
    mgrit: Grid = "",
    shape: Shape = "",
    blocks: Blocks = "",
    cut: Cut = None,
) -> None:
    """Compile a model and write it: safetensors weights and a JSON plan in one folder."""
    method = _method(mgrit, coarse, correction, iterations, guess, coarse_budget, tolerance)
    net = _compile(model, n, method, shape, cut, blocks)
    net.save(out)
    console = Console()
    console.print(str(net.plan), highlight=False)
    console.print(f"Written: {out}", highlight=False)


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
    chosen = Demo(depth=depth, counts=_integers(counts, "-n"), recipe=recipe, seed=seed)
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
    if not worker:
        raise typer.Exit(launch(ctx.obj, ranks, allocator))
    from pararealize.studies.bench import Bench, run  # noqa: PLC0415  it needs torch.distributed

    method = _method(mgrit, coarse, correction, iterations, guess, coarse_budget)
    sizes = _integers(batch, "--batch")
    chosen = Bench(sizes, rounds, not inference, n, method, allocator, cost, trace)
    torch.manual_seed(0)
    run(chosen, load_model(model), _integers(shape, "--shape"), world(), worker)


@app.command()
def check(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help="A folder that was saved, or a model.")],
    model: Annotated[str, typer.Option("--model", help="The model of a saved folder.")] = "",
    n: Annotated[int, typer.Option("-n", help="Subnetworks, where a model is given.")] = 2,
    ranks: Annotated[int, typer.Option(help="Compare so many ranks with one process.")] = 1,
    shape: Shape = "",
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 0.0,
    worker: Worker = "",
) -> None:
    """Compare a network with what it has to equal; exit code 1 where it does not.

    On ranks, the network with the same one in one process. Else a model, or a saved one, cut in n
    and corrected by its own layers, which is exact, with the model itself. All in float64.
    """
    if ranks > 1 and not worker:
        raise typer.Exit(launch(ctx.obj, ranks))
    from pararealize.studies import check as checking  # noqa: PLC0415  for this command only

    torch.manual_seed(0)
    torch.set_num_threads(1)
    example = (torch.zeros(_integers(shape, "--shape")),) if shape else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is not about speed
        if worker:
            title, rows = checking.on_ranks(target, model, n, example, world())
        else:
            title, rows = checking.exact(target, model, n, example)
    tolerance = tolerance or checking.ROUNDING
    quiet = bool(worker) and world().rank != 0
    Console(width=WIDTH, quiet=quiet).print(checking.table(rows, title, tolerance))
    raise typer.Exit(int(any(not row.relative <= tolerance for row in rows)))


def _compile(
    spec: str, n: str, method: Method, shape: str, cut: list[str] | None, blocks: str
) -> ParallelNetwork:
    model = load_model(spec)
    example = (torch.zeros(_integers(shape, "--shape")),) if shape else None
    count: Any = int(n) if n.lstrip("-").isdigit() else n
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # the verdict is printed
        return pararealize(
            model,
            count,
            method=method,
            example_inputs=example,
            interfaces=cut,
            blocks=blocks or None,
        )


def _method(
    mgrit: str,
    coarse: str,
    correction: str,
    iterations: int,
    guess: str,
    budget: float,
    tolerance: float | None = None,
) -> Method:
    """MGRIT with the options that are given for it, or else parareal."""
    if not mgrit:
        return Parareal(
            coarse, correction, iterations, guess, coarse_budget=budget, tolerance=tolerance
        )
    known = [field.name for field in fields(MGRIT)]
    options = dict(part.partition("=")[::2] for part in re.split(r",(?![^(]*\))", mgrit))
    unknown = [name for name in options if name not in known]
    if unknown:
        raise MethodError(f"--mgrit {mgrit!r}: {unknown[0]!r} is none of {', '.join(known)}.")
    values: dict[str, Any] = {name: _literal(text) for name, text in options.items()}
    return MGRIT(**values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise MethodError(f"{option} {text!r}: expected integers such as 2,3,6.") from error


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
        Console(stderr=True).print(f"pararealize: {error}", style="red", highlight=False)
        sys.exit(2)
