"""Reading: attributes that decided, while a network was traced, what its program is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Between the Python module and the name of a global that was read.
GLOBAL = ":"


@dataclass(frozen=True)
class Read:
    """An attribute or a global that a ``forward`` read, and the value that is part of the program.

    ``path`` is that of the module which read it; ``mode`` that of the network when it was read,
    where the value is one of its mode flags.
    """

    path: str
    name: str
    value: Any
    mode: bool | None = None

    def __str__(self) -> str:
        if GLOBAL in self.name:
            return self.name.replace(GLOBAL, ".")
        return f"{self.path}.{self.name}".strip(".")
