"""The terminal: what a command prints, and bars or lines of how far it is."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, final

from pararealize.explain.table import WIDTH, Table, page
from pararealize.runtime.monitoring.progress import Lines, Progress


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
            print(page(parts, width()))

    @property
    def progress(self) -> Progress:
        """Bars where a terminal shows them and rich draws them, or else lines."""
        if self.quiet or not sys.stderr.isatty() or find_spec("rich") is None:
            return Lines(shown=not self.quiet)
        from pararealize.cli.bars import Bars  # noqa: PLC0415  rich may be missing

        return Bars()


def width() -> int:
    """Characters of a line of the terminal, at least as many as tables take."""
    return max(shutil.get_terminal_size().columns, WIDTH)
