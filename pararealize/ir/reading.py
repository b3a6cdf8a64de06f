"""Reading: attributes that decided, while a network was traced, what its program is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Read:
    """An attribute that a ``forward`` read, and the value that is part of the program.

    ``path`` is the module's; ``mode`` that of the network when it was read, where the value is one
    of its mode flags.
    """

    path: str
    name: str
    value: Any
    mode: bool | None = None

    def __str__(self) -> str:
        return f"{self.path}.{self.name}".strip(".")
