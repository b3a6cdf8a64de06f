"""The application: all commands of the command line."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

import pararealize
from pararealize.cli.arguments import Debug
from pararealize.cli.commands.bench import bench
from pararealize.cli.commands.check import check
from pararealize.cli.commands.convert import convert
from pararealize.cli.commands.demo import demo
from pararealize.cli.commands.explain import explain
from pararealize.cli.commands.run import SETTINGS, run
from pararealize.cli.commands.simulate import simulate
from pararealize.cli.options import grouped

app = typer.Typer(
    help="Turn the depth of a PyTorch network into parallelism.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"pararealize {pararealize.__version__}, torch {torch.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]


@app.callback()
def options(debug: Debug = False, version: Version = False) -> None:
    """Turn the depth of a PyTorch network into parallelism."""


for command in (explain, simulate, convert, demo, bench, check):
    app.command()(grouped(command))

app.command(context_settings=SETTINGS)(run)
