"""Explain: what parallel depth would cost and bring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pararealize.cli.arguments import Cutting, MethodOptions, Model, Tolerance
from pararealize.cli.specs import load_model
from pararealize.cli.terminal import width
from pararealize.explain.explain import explain as explained
from pararealize.explain.gantt import of_plan
from pararealize.schedule.place import place


def explain(
    ctx: typer.Context,
    model: Model,
    options: MethodOptions,
    cutting: Cutting,
    tolerance: Tolerance = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the schedule (PNG and SVG).")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the schedule as well.")] = False,
) -> None:
    """Show what parallel depth would cost and bring, before anything runs."""
    if picture is not None:
        from pararealize.cli import plot  # noqa: PLC0415  matplotlib may be missing
    method = options.method(ctx, tolerance)
    net = cutting.compile(load_model(model), method)
    placed = place(net.schedule, net.plan.n, net.plan.n)
    print(explained(net.plan, width()))
    if text:
        print(placed.text())
    if picture is not None:
        files = plot.write_figure(plot.draw_schedule(of_plan(net.plan, placed)), picture)
        print("Written: " + ", ".join(map(str, files)))
