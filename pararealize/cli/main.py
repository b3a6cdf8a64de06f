"""Main: runs a command; what is wrong, or missing, is said in one paragraph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from pararealize.cli.launch import EXTRAS, is_first, missing
from pararealize.cli.terminal import width
from pararealize.errors import PararealizeError
from pararealize.explain.table import folded

#: Most characters of an error: what was typed may be of any length.
LONGEST = 1000


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a readable error is one paragraph and exit code 2.

    Raises:
        SystemExit: always, with the exit code.

    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        from pararealize.cli.app import app  # noqa: PLC0415  typer may be missing

        app(args=arguments, prog_name="pararealize", obj=arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS or "--debug" in arguments:
            raise
        _fail(missing(package), arguments)
    except Exception as error:
        if "--debug" in arguments:
            raise
        _fail(_said(error), arguments)


def _said(error: Exception) -> str:
    """What went wrong, on one line; where nobody foresaw it, how to see the traceback."""
    if isinstance(error, (PararealizeError, ValueError)) and str(error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{error.strerror}; name a file or folder that can be read or written."
    text = " ".join(str(error).split())[:400]
    return (
        f"this ended with {type(error).__name__}{f': {text}' if text else ''}. If the model or the "
        "data are not the reason, it is a fault of this program: --debug shows where."
    )


def _fail(text: str, arguments: Sequence[str]) -> NoReturn:
    """Say what is wrong, on ranks once, and exit with 2."""
    if "--worker" not in arguments or is_first(arguments[arguments.index("--worker") + 1]):
        said = f"pararealize: {text if len(text) <= LONGEST else f'{text[:LONGEST]} …'}".encode(
            errors="backslashreplace"
        ).decode()
        red = f"\x1b[31m{folded(said, width())}\x1b[0m"
        print(red if sys.stderr.isatty() else said, file=sys.stderr)
    sys.exit(2)
