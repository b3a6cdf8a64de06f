"""Lane tape: operations, events and waits in the order of the host, to be done again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor
from torch.utils._pytree import tree_leaves


@final
@dataclass(frozen=True)
class Operation:
    """An operation of torch on a lane, and what it gave."""

    lane: int
    function: Any
    args: Any
    kwargs: Any
    result: Any

    def again(self) -> None:
        """Do it again; what it gives goes where it went, unless it is part of what it reads."""
        read = storages((self.args, self.kwargs))
        made = self.function(*self.args, **self.kwargs)
        for old, new in zip(tensors(self.result), tensors(made), strict=True):
            if memory(old) not in read:
                old.copy_(new)


@final
@dataclass(frozen=True)
class HostCall:
    """Something that the host does at this point of a lane."""

    lane: int
    function: Callable[[], None]

    def again(self) -> None:
        """Do it."""
        self.function()


@final
@dataclass(frozen=True)
class Mark:
    """An event of a lane."""

    lane: int
    event: int


@final
@dataclass(frozen=True)
class Wait:
    """A lane waits for an event."""

    lane: int
    event: int


Entry = Operation | HostCall | Mark | Wait


@final
@dataclass
class LaneTape:
    """Entries; ``known`` says of every lane how much of each has surely run, in operations."""

    entries: list[Entry] = field(default_factory=list)
    known: dict[int, Counter[int]] = field(default_factory=dict)
    _passed: dict[int, Counter[int]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Record an entry."""
        self.entries.append(entry)
        here = self.known.setdefault(entry.lane, Counter())
        if isinstance(entry, Operation):
            here[entry.lane] += 1
        elif isinstance(entry, Mark):
            self._passed[entry.event] = Counter(here)
        elif isinstance(entry, Wait):
            here |= self._passed.get(entry.event, Counter())
            self.known[entry.lane] = here

    def run(self, *, latest: bool) -> None:
        """Do all again: as the host did, or the lane that came last as far as it can go."""
        if not latest:
            for entry in self.entries:
                if isinstance(entry, (Operation, HostCall)):
                    entry.again()
            return
        queues: dict[int, deque[Entry]] = {}
        for entry in self.entries:
            queues.setdefault(entry.lane, deque()).append(entry)
        marks = {entry.event for entry in self.entries if isinstance(entry, Mark)}
        passed: set[int] = set()
        while any(queues.values()):
            lane = next(
                lane
                for lane in reversed(queues)
                if queues[lane] and _can_run(queues[lane][0], passed, marks)
            )
            entry = queues[lane].popleft()
            if isinstance(entry, Mark):
                passed.add(entry.event)
            elif not isinstance(entry, Wait):
                entry.again()

    def text(self) -> str:
        """What is launched where: operations by lane, in the order of the host."""
        lines = (f"{entry.lane:>4}  {_told(entry)}" for entry in self.entries)
        return "\n".join(lines)

    __str__ = text


def _can_run(entry: Entry, passed: set[int], marks: set[int]) -> bool:
    return not isinstance(entry, Wait) or entry.event in passed or entry.event not in marks


def _told(entry: Entry) -> str:
    match entry:
        case Operation():
            return str(entry.function)
        case Mark():
            return f"event {entry.event}"
        case Wait():
            return f"wait for {entry.event}"
        case HostCall():
            return "host"


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in a tree that hold numbers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.numel()]


def memory(tensor: Tensor) -> int:
    """Where a tensor's numbers lie."""
    return tensor.untyped_storage().data_ptr()


def storages(tree: Any) -> set[int]:
    """Where the numbers of a tree's tensors lie."""
    return {memory(tensor) for tensor in tensors(tree)}
