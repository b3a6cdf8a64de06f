"""Store: records of tensors, in memory up to a limit and then in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, final

import torch
from torch import Tensor

from pararealize.runtime.values.pytree import leaves_of


@final
class Store:
    """A list of records; close it, or use it as a context, to remove its files.

    Args:
        memory: bytes of records to keep in memory; later ones are written to files, of which only
            what is read is loaded.

    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._records: list[Any] = []
        self._folder: TemporaryDirectory[str] | None = None

    def append(self, record: Any) -> None:
        """Keep a record: dictionaries and tuples of tensors."""
        size = sum(t.numel() * t.element_size() for t in leaves_of(record) if isinstance(t, Tensor))
        if size <= self._memory:
            self._memory -= size
            self._records.append(record)
            return
        self._memory = 0
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="pararealize-")
        file = Path(self._folder.name, f"{len(self._records)}.pt")
        torch.save(record, file)
        self._records.append(file)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Any:
        found = self._records[i]
        return torch.load(found, mmap=True, weights_only=True) if isinstance(found, Path) else found

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        """Forget everything."""
        self._records = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()
