"""Watching: networks that look for attributes which have changed since they were compiled."""

from __future__ import annotations

from abc import ABC
from typing import Any


class Watching(ABC):
    """A network with a watch, which a replay asks as a call does."""

    _watch: Any

    def check_unchanged(self) -> None:
        """Raise where an attribute has changed that the network was compiled with.

        Raises:
            StaleError: names it, both values, and what to write.

        """
        self._watch.check()
