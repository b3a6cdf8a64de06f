"""Run: a script of the user's own on ranks, whose errors are said once."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer

from pararealize.cli.launch import is_first, launch
from pararealize.errors import DataError, PararealizeError

#: What follows the script is the script's own, whatever it looks like.
SETTINGS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}


def run(
    ctx: typer.Context,
    script: Annotated[Path, typer.Argument(help="A Python file, then what it is given.")],
    ranks: Annotated[int, typer.Option(help="Processes under mpiexec, one thread each.")] = 2,
    allocator: Annotated[str, typer.Option(help="heap or default.")] = "heap",
) -> None:
    """Run a script of yours on ranks: an error is said once, and ends all of them."""
    if not script.is_file():
        raise DataError(f"{script}: no such file; name a Python file, and its arguments after it.")
    *given, option, folder = ["", "", *ctx.args]
    if option != "--worker":
        raise typer.Exit(launch(ctx.obj, ranks, allocator))
    _work(script, given[2:], folder)


def _work(script: Path, given: list[str], folder: str) -> None:
    """Run the script as Python would, on one of the ranks."""
    sys.argv = [str(script), *given]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except PararealizeError as error:
        error.args = (f"{_place(error, script)}: {error}",)
        raise
    except Exception as error:
        if is_first(folder):
            traceback.print_exception(error.with_traceback(_own(error, script)))
        raise typer.Exit(1) from error


def _own(error: BaseException, script: Path) -> TracebackType | None:
    """The traceback from the script on, without what ran it."""
    found = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename != str(script):
        found = found.tb_next
    return found


def _place(error: BaseException, script: Path) -> str:
    """The line of the script, or of what it imports beside it, that the error came through last."""
    beside = str(script.resolve().parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if str(Path(frame.filename).resolve()).startswith(beside)
        and "site-packages" not in frame.filename
    ]
    last = frames[-1] if frames else None
    return f"{script}" if last is None else f"{last.filename}, line {last.lineno}"
