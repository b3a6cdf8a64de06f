"""Races: operations on a lane that nothing orders after those that they depend on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor

from pararealize.runtime.capture.tape import Operation, memory, tensors

#: The lane of what is called outside all others.
NOW = 0
#: Arguments that operations write on without saying so, running means and variances, and the
#: argument that says whether they do.
WRITTEN = {"native_batch_norm": ((3, 4), 5), "cudnn_batch_norm": ((3, 4), 5)}


@dataclass(frozen=True)
class Race:
    """An operation that reads, or writes, what another lane has not surely done with."""

    operation: str
    lane: int
    other: int
    writes: bool

    def __str__(self) -> str:
        what = "writes what" if self.writes else "reads what"
        return f"{self.operation} on lane {self.lane} {what} lane {self.other} may still use"


@final
@dataclass
class Reads:
    """Who wrote memory last, and who has read it since, by lane and number of the operation."""

    races: list[Race] = field(default_factory=list)
    _wrote: dict[int, tuple[int, int]] = field(default_factory=dict)
    _read: dict[int, Counter[int]] = field(default_factory=dict)

    def note(self, known: Mapping[int, Counter[int]], operation: Operation) -> None:
        """An operation was added to a lane whose knowledge of the others is ``known[lane]``."""
        lane = operation.lane
        here, number = known[lane], known[lane][lane]
        written = {memory(tensor) for tensor in _written(operation)}
        read = {memory(tensor) for tensor in tensors((operation.args, operation.kwargs))}
        for place in read | written:
            other, at = self._wrote.get(place, (NOW, 0))
            if here[other] < at:
                self.races.append(Race(str(operation.function), lane, other, writes=False))
        for place in written:
            for other, at in self._read.get(place, Counter[int]()).items():
                if here[other] < at:
                    self.races.append(Race(str(operation.function), lane, other, writes=True))
        for place in read - written:
            self._read.setdefault(place, Counter())[lane] = number
        for place in written:
            self._wrote[place] = lane, number
            self._read.pop(place, None)


def _written(operation: Operation) -> Iterator[Tensor]:
    """What an operation writes: new memory, or arguments that its schema calls mutable."""
    schema = operation.function._schema
    read = {memory(tensor) for tensor in tensors((operation.args, operation.kwargs))}
    for tensor in tensors(operation.result):
        if memory(tensor) not in read:
            yield tensor
    for number, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(_argument(operation, number, argument.name))
    hidden, flag = WRITTEN.get(schema.name.rpartition("::")[2], ((), None))
    if flag is not None and operation.args[flag]:
        yield from tensors([operation.args[number] for number in hidden])


def _argument(operation: Operation, number: int, name: str) -> Any:
    if name in operation.kwargs:
        return operation.kwargs[name]
    return operation.args[number] if number < len(operation.args) else None
