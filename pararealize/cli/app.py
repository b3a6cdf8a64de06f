"""The application: all commands of the command line."""

from __future__ import annotations

import typer

from pararealize.cli.arguments import Debug
from pararealize.cli.commands.bench import bench
from pararealize.cli.commands.check import check
from pararealize.cli.commands.convert import convert
from pararealize.cli.commands.demo import demo
from pararealize.cli.commands.explain import explain
from pararealize.cli.options import grouped

app = typer.Typer(
    help="Turn the depth of a PyTorch network into parallelism.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(debug: Debug = False) -> None:
    """Turn the depth of a PyTorch network into parallelism."""


for command in (explain, convert, demo, bench, check):
    app.command()(grouped(command))
