"""Timeline: when a rank did what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final


@dataclass(frozen=True)
class Span:
    """Something a rank did; ``start`` and ``stop`` are seconds of the system's clock."""

    name: str
    kind: str
    start: float
    stop: float


@final
class Recorder:
    """Collects spans. A backward pass is a run of marks, each of which ends the one before."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._mark: tuple[str, str, float] | None = None

    @contextmanager
    def span(self, name: str, kind: str) -> Iterator[None]:
        """What happens in the block."""
        start = time.time()
        yield
        self.spans.append(Span(name, kind, start, time.time()))

    def mark(self, name: str, kind: str) -> None:
        """From now on it is this that happens; nothing, if ``name`` is empty."""
        now = time.time()
        if self._mark is not None:
            self.spans.append(Span(*self._mark, now))
        self._mark = (name, kind, now) if name else None
