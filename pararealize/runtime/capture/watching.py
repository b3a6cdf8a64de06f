"""Watching: networks that look for attributes which have changed since they were compiled."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Watching(ABC):
    """A network that can be compiled again in place, which a replay asks for as a call does."""

    @abstractmethod
    def follow(self) -> bool:
        """Follow attributes that have changed; whether it runs other programs from now on.

        Raises:
            StaleError: it cannot; names the attribute, both values, and what to write.

        """
