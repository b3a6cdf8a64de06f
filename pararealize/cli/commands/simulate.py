"""Simulate: parallel depth foretold for machines that are not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from pararealize.cli import options
from pararealize.cli.arguments import MethodOptions, Model, Shape, Tolerance, Worker
from pararealize.cli.launch import world
from pararealize.cli.specs import load_model
from pararealize.cli.terminal import Printer, width
from pararealize.errors import MethodError
from pararealize.explain import scaling
from pararealize.explain.table import Table, page
from pararealize.forecast import forecast, forecasts, meshes
from pararealize.ir.chain import TensorSpec
from pararealize.ir.forecast import Forecast
from pararealize.ir.machines import DEVICES, LINKS, machine_of
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.plan import Machine

#: Coarsening that levels are compared with; those that the best is looked for among.
FACTOR, FACTORS = 4, (2, 4, 8)
#: Levels that the best is looked for among, and the most that are compared.
BEST_LEVELS, MOST_COMPARED = 5, 12


def simulate(
    ctx: typer.Context,
    model: Model,
    method: MethodOptions,
    n: Annotated[str, typer.Option("-n", help="Numbers of subnetworks: 4,16,64 or 4…1024.")] = (
        "1…16"
    ),
    shape: Shape = "",
    tolerance: Tolerance = None,
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)}.")] = "core",
    link: Annotated[str, typer.Option(help=f"One of {', '.join(LINKS)}.")] = "memory",
    rates: Annotated[
        str,
        typer.Option(help="Own rates, such as flops_per_second=1e12,link_latency=1e-6."),
    ] = "",
    training: Annotated[
        bool, typer.Option("--training", help="Memory and messages of a training step.")
    ] = False,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Together with data parallelism, too.")
    ] = False,
    sweeps: Annotated[int, typer.Option(help="Compare parareal with 1 … so many sweeps.")] = 0,
    levels: Annotated[
        int, typer.Option(help="Compare MGRIT, and parareal with --sweeps, of 2 … so many levels.")
    ] = 0,
    best: Annotated[
        bool, typer.Option("--best", help="Find the best n, levels and coarsening.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw the scaling (PNG and SVG).")] = None,
    measure: Annotated[
        str, typer.Option(help="Ranks of this machine to measure beside predictions: 1,2,4.")
    ] = "",
    worker: Worker = "",
    into: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Foretell strong and weak scaling in depth on other machines; nothing runs.

    But with --measure, where predictions for this machine are compared with steps of ranks.
    """
    if picture is not None:
        from pararealize.cli import plot  # noqa: PLC0415  matplotlib may be missing
    counts, machine = counts_of(n), machine_of(device, link, **_rates(rates))
    chosen, example = method.method(ctx, tolerance), options.example_of(shape)
    methods = _methods(chosen, sweeps, levels, best=best)
    if measure:
        ignored = ("device", "link", "rates", "mesh", "picture", "sweeps", "levels", "best", "n")
        options.refuse(ctx, (*ignored, "training"), "--measure is of this machine, n the ranks")
        _measured(ctx.obj, model, chosen, example, measure, worker, into)
        return
    network, printer = load_model(model), Printer.of(None)

    def foretold(inputs: tuple[Tensor, ...] | None) -> Forecast:
        return forecast(
            network,
            counts,
            method=chosen,
            machine=machine,
            example_inputs=inputs,
            training=training,
            progress=printer.progress,
        )

    if methods:
        each = forecasts(
            network,
            counts,
            methods,
            machine=machine,
            example_inputs=example,
            training=training,
            progress=printer.progress,
        )
        what = _what(each[0], device, link)
        print(page([scaling.compared(each), what, *scaling.choice(each)], width()))
        if picture is not None:
            lines = [(scaling.named(one.method), one) for one in each]
            print(_written(plot.write_figure(plot.draw_methods(lines), picture)))
        return
    found = foretold(example)
    print(page(_parts(found, device, link), width()))
    if mesh:
        print(f"\n{_meshed(found, example, foretold)}")
    if picture is not None:
        print(_written(plot.write_figure(plot.draw_scaling(found), picture)))


def _written(files: list[Path]) -> str:
    return "Written: " + ", ".join(map(str, files))


def _measured(
    arguments: list[str],
    model: str,
    method: Method,
    example: tuple[Tensor, ...] | None,
    measure: str,
    worker: str,
    into: str,
) -> None:
    """The table of predictions and measurements; a worker is one of the ranks that measure."""
    from pararealize.cli import trust  # noqa: PLC0415  it needs torch.distributed

    counts = options.integers(measure, "--measure", 1)
    if not worker:
        rows = trust.measure(arguments, counts)
        print(page([trust.table(model.rpartition(":")[2], rows)], width()))
        return
    torch.manual_seed(0)
    trust.run(load_model(model), method, example, world(), into)


def _methods(chosen: Method, sweeps: int, levels: int, *, best: bool) -> list[Method]:
    """The methods to compare; none where one alone is asked for.

    Parareal's groups are such that corrections are fewest. Multigrid guesses by a sweep of its
    coarsest level, unless options say otherwise: one of level 2 would take as long with any number
    of levels.
    """
    for option, number in (("--sweeps", sweeps), ("--levels", levels)):
        options.check_range(option, number, 0, MOST_COMPARED)
    if levels == 1:
        raise MethodError("--levels 1: there are 2 levels or more: write --levels 4.")
    parareal = chosen if isinstance(chosen, Parareal) else Parareal()
    mgrit = chosen if isinstance(chosen, MGRIT) else MGRIT(coarsening=FACTOR, guess="coarsest")
    factors = FACTORS if best else (mgrit.factors[0],)
    sweeps, levels = (sweeps or 1, levels or BEST_LEVELS) if best else (sweeps, levels)
    in_levels = [parareal]
    if levels:
        counts = range(2, levels + 1)
        in_levels = [replace(parareal, levels=count, coarsening=None) for count in counts]
    return [
        *(replace(each, iterations=k) for k in range(1, sweeps + 1) for each in in_levels),
        *(
            replace(mgrit, levels=count, coarsening=factor)
            for factor in factors
            for count in range(2, levels + 1)
        ),
    ]


def counts_of(text: str) -> tuple[int, ...]:
    """Numbers with commas between them, or the powers of two from one number to another.

    Raises:
        MethodError: they are none.

    """
    first, mark, last = text.replace("...", "…").partition("…")
    if not mark:
        return options.integers(text, "-n", 1)
    (low,), (high,) = options.integers(first, "-n", 1), options.integers(last, "-n", 1)
    if low > high:
        raise MethodError(f"-n {text!r:.40}: expected the smaller number first.")
    found = [low]
    while found[-1] * 2 <= high:
        found.append(found[-1] * 2)
    return (*found, high) if found[-1] < high else tuple(found)


def _rates(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    known = [field.name for field in fields(Machine)]
    for name, _, value in pairs:
        if name not in known:
            raise MethodError(f"--rates {text!r:.80}: {name!r:.40} is none of {', '.join(known)}.")
        options.numbers(value, f"--rates {name}")
    return {name: float(value) for name, _, value in pairs}


def _parts(found: Forecast, device: str, link: str) -> list[Table | str]:
    weak = scaling.weak(found)
    return [
        scaling.strong(found),
        *([] if weak is None else [weak]),
        _what(found, device, link),
        *scaling.verdict(found),
    ]


def _what(found: Forecast, device: str, link: str) -> str:
    inputs = ", ".join(f"{name} {text}" for name, text in found.inputs.items())
    machine = found.machine
    step = "a training step takes about three times as long" if found.training else "inference"
    return (
        f"Times are of one evaluation of {inputs} ({step}), predicted from operations, bytes and "
        f"launches. Device: {DEVICES[device].source}. Link: {LINKS[link].source}; a message takes "
        f"{machine.link_latency * 1e6:.3g} µs and {machine.link_bandwidth / 1e9:.3g} GB/s."
    )


def _meshed(
    found: Forecast,
    example: tuple[Tensor, ...] | None,
    foretold: Callable[[tuple[Tensor, ...] | None], Forecast],
) -> Table:
    """Forecasts of halves, quarters, … of the batch on as many replicas each."""
    batch, by_replicas = found.serial.batch, {1: found}
    if example is None:
        specs = [TensorSpec.parse(text) for text in found.inputs.values()]
        example = tuple(torch.zeros(spec.shape, dtype=spec.dtype) for spec in specs)
    parts = 2
    while batch % parts == 0:
        by_replicas[parts] = foretold(tuple(tensor[: batch // parts] for tensor in example))
        parts *= 2
    devices = sorted({k * e.n for k, each in by_replicas.items() for e in each.estimates})
    return scaling.mesh(meshes(by_replicas, devices), found.serial.seconds)
