"""Progress: what a long task tells of how far it is."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self, TextIO, final


class Advance(Protocol):
    """Says that a task is one step further, and perhaps something of that step."""

    def __call__(self, note: str = "") -> None:
        """Say so."""


class Progress(ABC):
    """Tasks that follow each other in a block, each of a number of steps that may be unknown."""

    @abstractmethod
    def task(self, what: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A block in which a task goes on; the function says that one more step is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        return None


@final
class Lines(Progress):
    """A line of text every so many ``seconds`` at most, and one at the end of each task, or none.

    ``stream`` is where to, by default the standard error stream; ``clock`` tells seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        shown: bool = True,
    ) -> None:
        self._stream, self._seconds, self._clock, self._shown = stream, seconds, clock, shown

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Advance]:
        """A block in which a task goes on; a task that fails has no line at its end."""
        began = told = self._clock()
        done, said = 0, ""

        def tell(now: float, how: str = "") -> None:
            of = "" if total is None else f" of {total}"
            steps = f"{done}{of}{said}, " if done or of else ""  # a task may have no steps
            line = f"{what}: {steps}{how}{now - began:.1f} s"
            if self._shown:
                print(line, file=self._stream or sys.stderr, flush=True)

        def advance(note: str = "") -> None:
            nonlocal done, said, told
            done, said, now = done + 1, f", {note}" if note else "", self._clock()
            if now - told >= self._seconds and done != total:
                told = now
                tell(now)

        yield advance
        tell(self._clock(), "done in ")


def progress_of(wanted: bool | Progress, *, first: bool) -> Progress:
    """What tells how far a task is: as given, in lines, or on ranks but the ``first`` nothing."""
    if isinstance(wanted, Progress) and first:
        return wanted
    return Lines(shown=bool(wanted) and first)
