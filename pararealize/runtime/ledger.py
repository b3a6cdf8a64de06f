"""Ledger: statistics that a step has moved, so that a later evaluation in it can move them anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from pararealize.runtime.quiet import Statistics, is_torchs


class Ledger:
    """Statistics before every evaluation of a step that moved them.

    Where sweeps are decided while the network runs, no evaluation knows that it is the last. Each
    moves the statistics; the next of the same propagator takes that back, and what others have
    moved in the same modules since: they come again after it.
    """

    def __init__(self) -> None:
        self._moved: dict[nn.Module, dict[object, Statistics]] | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """One call of the network."""
        self._moved = {}
        try:
            yield
        finally:
            self._moved = None

    @property
    def is_open(self) -> bool:
        """Whether a call is under way that may evaluate again."""
        return self._moved is not None

    def note(self, who: object, modules: Iterable[nn.Module]) -> None:
        """An evaluation by ``who`` is about to move statistics in the modules."""
        assert self._moved is not None
        for module in dict.fromkeys(modules):
            if is_torchs(module) and not module.training:
                continue  # evaluates, and moves nothing
            before = self._moved.setdefault(module, {})
            while who in before:
                _, statistics = before.popitem()
                statistics.restore()
            before[who] = Statistics([module])
