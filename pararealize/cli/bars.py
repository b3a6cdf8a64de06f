"""Bars: how far a long task is, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, final

from rich import progress as bars
from rich.console import Console

from pararealize.runtime.monitoring.progress import Advance, Progress


@final
class Bars(Progress):
    """A bar for every task, on the standard error stream."""

    def __init__(self) -> None:
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[note]}"),
            bars.TimeElapsedColumn(),
            console=Console(stderr=True),
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
