"""Cache: graphs by what they were captured for, of which the one used longest ago makes room."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import torch
from torch import nn

from pararealize.errors import CaptureWarning, MethodError, ShapeError
from pararealize.runtime.capture.surroundings import Surroundings

#: What is kept: a graph, or those of all pieces.
Captured = TypeVar("Captured")


@final
@dataclass(frozen=True)
class Kept(Generic[Captured]):
    """A graph with what it took over from Python."""

    call: Captured
    surroundings: Surroundings


@final
class GraphCache(Generic[Captured]):
    """Graphs of one network, so many at most.

    A key that is seen for the first time is no reason to capture; ``strict`` never runs anything
    that was not captured. ``captures`` counts them, and ``why`` says what the last one that was
    dropped would have missed; without ``watches`` none is.
    """

    def __init__(self, most: int, *, strict: bool, watches: bool, trains: bool) -> None:
        if most < 1:
            raise MethodError(f"capture: graphs={most} keeps none: write graphs=1 or more.")
        self._most, self.is_strict, self._watches = most, strict, watches
        self._asked = False
        self._trains = trains
        self._kept: OrderedDict[Hashable, Kept[Captured]] = OrderedDict()
        self._met: OrderedDict[Hashable, bool] = OrderedDict()  # whether a graph can be made
        self.captures = 0
        self.why = ""

    def find(self, key: Hashable) -> Captured | None:
        """The graph of a key, unless it would miss something by now."""
        call = self.unchecked(key)
        return call if call is not None and self.is_current(key) else None

    def unchecked(self, key: Hashable) -> Captured | None:
        """The graph of a key, whatever has changed since."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept.call

    def is_current(self, key: Hashable) -> bool:
        """Whether the graph of a key misses nothing; one that does is dropped."""
        if key not in self._kept:
            return False
        self.why = self._kept[key].surroundings.change() if self._watches else ""
        if self.why:
            del self._kept[key]
        return not self.why

    @contextmanager
    def asked(self) -> Iterator[None]:
        """A block in which all that has no graph is captured."""
        self._asked = True
        try:
            yield
        finally:
            self._asked = False

    def is_first(self, key: Hashable) -> bool:
        """Whether to run without a graph, as the key is new, or known to have none.

        Raises:
            ShapeError: nothing may run without one.

        """
        if self._asked:
            return False
        if key not in self._met and self.is_strict:
            raise ShapeError(
                f"no graph was captured for {_told(key)}, and strict=True runs nothing else: call "
                ".prepare(...) with such arguments first, or leave strict out."
            )
        if key not in self._met:
            self._met[key] = True
            while len(self._met) > 8 * self._most:
                self._met.popitem(last=False)
            return True
        return not self._met[key]

    def add(
        self,
        key: Hashable,
        modules: Sequence[nn.Module],
        capture: Callable[[], Captured],
        *,
        asked: bool = False,
    ) -> Captured | None:
        """Capture; ``None``, with a warning, where that cannot be done and was not ``asked`` for.

        Raises:
            MethodError: it cannot be done, and nothing may run without a graph.

        """
        surroundings = Surroundings(modules, trains=self._trains)
        while len(self._kept) >= self._most:
            self._kept.popitem(last=False)
        try:
            call = capture()
        except (MethodError, RuntimeError) as error:
            told = f"a graph cannot be captured for {_told(key)}: {error}"
            if asked or self.is_strict:
                raise MethodError(told) from error
            warnings.warn(f"{told} It runs without one.", CaptureWarning, stacklevel=4)
            self._met[key] = False
            return None
        self._met[key] = True
        self._kept[key] = Kept(call, surroundings)
        self.captures += 1
        return call

    def clear(self) -> None:
        """Forget all graphs."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)


def _told(key: Any) -> str:
    """The arguments that a key stands for."""
    found = [part for part in key[0] if isinstance(part, tuple)]
    texts = [
        f"{str(second).removeprefix('torch.')}{list(first)}"
        if isinstance(second, torch.dtype)
        else repr(second)
        for first, second in found
    ]
    return f"arguments ({', '.join(texts)})"
