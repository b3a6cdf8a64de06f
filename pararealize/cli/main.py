"""Main: runs a command; what is wrong, or missing, is said in one paragraph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from pararealize.cli.launch import EXTRAS, is_first, missing
from pararealize.cli.terminal import width
from pararealize.errors import PararealizeError
from pararealize.explain.table import folded


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a readable error is one paragraph and exit code 2.

    Raises:
        SystemExit: always, with the exit code.

    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from pararealize.cli.app import app  # noqa: PLC0415  typer may be missing

        app(args=arguments, obj=arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS or "--debug" in arguments:
            raise
        _fail(missing(package), arguments)
    except (PararealizeError, ValueError) as error:
        if "--debug" in arguments:
            raise
        _fail(str(error), arguments)


def _fail(text: str, arguments: Sequence[str]) -> NoReturn:
    """Say what is wrong, on ranks once, and exit with 2."""
    if "--worker" not in arguments or is_first(arguments[arguments.index("--worker") + 1]):
        said = f"pararealize: {text}"
        red = f"\x1b[31m{folded(said, width())}\x1b[0m"
        print(red if sys.stderr.isatty() else said, file=sys.stderr)
    sys.exit(2)
