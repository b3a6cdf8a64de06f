"""Explain: a plan as a table and a verdict, before anything runs."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from pararealize.ir.plan import Piece, Plan

COLUMNS = (
    *("subnetwork", "layers", "depth", "parameters", "GFLOP", "ms", "activations"),
    *("sends", "guess", "coarse"),
)


def explain_table(plan: Plan) -> Table:
    """One row for each subnetwork, with what its guess and coarse networks add."""
    table = Table(title=f"{plan.model}, n = {plan.n}", title_justify="left")
    for column in COLUMNS:
        text = column in {"layers", "guess", "coarse"}
        table.add_column(column, justify="left" if text else "right")
    for piece in plan.pieces:
        table.add_row(*_row(piece))
    if plan.head:
        table.add_row("head", plan.head, *("",) * 3, f"{plan.head_seconds * 1e3:.3f}", *("",) * 4)
    return table


def _row(p: Piece) -> tuple[str, ...]:
    span = " … ".join(dict.fromkeys(p.layers))
    sends = f"{_size(p.interface_bytes)} after {p.module or p.after}" if p.interface_bytes else "–"
    return (
        str(p.index),
        span,
        str(p.depth),
        f"{p.parameters:,}",
        f"{p.flops / 1e9:.3f}",
        f"{p.seconds * 1e3:.3f}",
        _size(p.memory),
        sends,
        _network(p.guess, p.guess_parameters, p.guess_seconds, None),
        _network(p.coarse, p.coarse_parameters, p.coarse_seconds, p.error),
    )


def _network(kind: str, parameters: int, seconds: float, error: float | None) -> str:
    if kind == "none":
        return "–"
    measured = f", leaves {error:.0%} of an error" if error is not None else ""
    return f"{kind}: {parameters:,} parameters, {seconds * 1e3:.3f} ms{measured}"


def _size(count: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def summary(plan: Plan) -> list[str]:
    """Sentences about the whole network."""
    inputs = ", ".join(f"{name} {spec}" for name, spec in plan.inputs.items())
    added = plan.added_parameters / plan.parameters if plan.parameters else 0.0
    return [
        f"Costs are of one forward evaluation of {inputs}.",
        f"Added parameters: {plan.added_parameters:,} ({added:.1%}). Coarse work on the critical "
        f"path: {plan.critical_coarse_seconds * 1e3:.3f} ms ({plan.coarse_share:.1%} of the "
        "heaviest subnetwork).",
        plan.verdict,
        *plan.notes,
    ]


def explain(plan: Plan, width: int = 160) -> str:
    """The table and the sentences as text."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, color_system=None)
    console.print(explain_table(plan))
    for line in summary(plan):
        console.print(line, highlight=False)
    return buffer.getvalue()
