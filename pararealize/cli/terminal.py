"""The terminal: what a command prints, and bars or lines of how far it is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self, final

from pararealize.explain.table import WIDTH, Table, page
from pararealize.runtime.monitoring.progress import Advance, Lines, Progress


@final
@dataclass(frozen=True)
class Printer:
    """Prints paragraphs and tables as wide as the terminal; on ranks, the first one alone does."""

    quiet: bool = False

    @classmethod
    def of(cls, comm: Any) -> Printer:
        """One of a rank of ``comm``, or of the only process there is."""
        return cls(quiet=comm is not None and comm.rank != 0)

    def __call__(self, *parts: Table | str) -> None:
        """Print tables, an empty line after each, and paragraphs."""
        if not self.quiet:
            print(page(parts, width()), flush=True)  # also where a pipe would keep it

    @property
    def progress(self) -> Progress:
        """Bars where a terminal shows them and rich draws them, or else lines."""
        if self.quiet or not sys.stderr.isatty() or find_spec("rich") is None:
            return Lines(shown=not self.quiet)
        return Bars()


def width() -> int:
    """Characters of a line of the terminal, at least as many as tables take."""
    return max(shutil.get_terminal_size().columns, WIDTH)


@final
class Bars(Progress):
    """A bar for every task, on the standard error stream."""

    def __init__(self) -> None:
        from rich import console, progress  # noqa: PLC0415  rich may be missing

        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}"),
            progress.TimeElapsedColumn(),
            console=console.Console(stderr=True),
        )

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Advance]:
        """A bar in the block."""
        task = self._bars.add_task(what, total=total, note="")

        def advance(note: str = "") -> None:
            self._bars.update(task, advance=1, note=note)

        try:
            yield advance
        finally:
            self._bars.update(task, completed=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        self._bars.stop()
