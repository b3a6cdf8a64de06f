"""Progress: bars of what a calibration does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, final

from rich import progress as bars
from rich.console import Console


@final
class Progress:
    """Bars on the standard error stream, or none."""

    def __init__(self, *, shown: bool) -> None:
        columns = (bars.TextColumn("{task.description}"), bars.BarColumn())
        self._bars = bars.Progress(
            *columns,
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """A bar in the block; the function moves it by one."""
        task = self._bars.add_task(what, total=total)

        def advance() -> None:
            self._bars.advance(task)

        try:
            yield advance
        finally:
            self._bars.update(task, completed=total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        self._bars.stop()
