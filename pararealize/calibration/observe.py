"""Observe: states of the serial network, and of guesses, at every interface, and their store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, final

import torch
from torch import Tensor

from pararealize.calibration.data import Inputs
from pararealize.calibration.strides import Interval, Stride, piece
from pararealize.calibration.subject import Subject
from pararealize.ir.schedule import Schedule, Watch, needed
from pararealize.ir.target import HEAD, Target
from pararealize.ir.task import INPUT, Role, Task
from pararealize.propagators.propagator import Propagator
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


@dataclass(frozen=True)
class Observed:
    """Stored batches: those that coarse networks are fitted to, and those held out.

    A record holds ``inputs``, the serial ``output`` and for each subnetwork of this rank, or group
    that is corrected here, the ``states`` before and after it, (u_i, u_j) by (i, j); before the
    first there is none.
    """

    fitted: Store
    held_out: Store

    @property
    def samples(self) -> tuple[int, int]:
        """How many samples there are of either kind."""
        fitted, held_out = (
            sum(len(next(iter(record["inputs"].values()))) for record in store)
            for store in (self.fitted, self.held_out)
        )
        return fitted, held_out

    def first(self, share: float) -> Observed:
        """A share of either kind, one record at least; they share the records in memory."""
        found = Observed(Store(sys.maxsize), Store(sys.maxsize))
        for store, into in ((self.fitted, found.fitted), (self.held_out, found.held_out)):
            for i in range(max(1, round(share * len(store)))):
                into.append(store[i])
        return found


def states_of(record: Mapping[str, Any], interval: Interval) -> tuple[Any, Any]:
    """States at both ends; those from the start may lead to another rank's subnetwork."""
    states: Mapping[Interval, tuple[Any, Any]] = record["states"]
    start, end = interval
    if start > 0:
        return states[interval]
    last = states.get(piece(end))
    return None, states[piece(end + 1)][0] if last is None else last[1]


def serial_schedule(n: int, *, head: bool, groups: Sequence[Stride] = ()) -> Schedule:
    """The serial network, one subnetwork after another, each with its states watched.

    Of groups, the states at both ends are watched where they are corrected.
    """
    states = [INPUT, *(f"u{j}" for j in range(1, n + 1))]
    tasks = [
        Task(states[j], "apply", Role.FINE, (states[j - 1],), Target.fine(j), piece=j)
        for j in range(1, n + 1)
    ]
    if head:
        tasks.append(Task("out", "apply", Role.HEAD, (states[n],), HEAD, piece=n))
    # A watch lies where both its values are known: the first state has no other one beside it, and
    # under a name of its own it stays with the rank that makes it.
    tasks.insert(1, Task("own", "combine", Role.COPY, (states[1],), signs="+", piece=1))
    before = ["own", *states[1:]]
    watches = [Watch(0, j, states[j], before[j - 1], level=2) for j in range(1, n + 1)]
    for group in groups:
        copies, watch = _watched(group, states[group.start], states[group.end])
        tasks[-1:-1] = copies
        watches.append(watch)
    output = tasks[-1].value
    return Schedule(tuple(tasks), output, tuple(watches), (INPUT,), title="serial").verify()


def _watched(group: Stride, before: str, after: str) -> tuple[list[Task], Watch]:
    """What brings the state before a group to where it is corrected, to be watched there.

    Under a name of its own, so that no rank knows more of the states themselves than it needs.
    """
    name = f"{group.level}.{group.number}"
    copies = [
        Task(value, "combine", Role.COPY, (read,), signs="+", piece=at)
        for value, read, at in (
            (f"from{name}", before, group.start + 1),
            (f"own{name}", f"from{name}", group.end),
        )
    ]
    return copies, Watch(0, group.end, after, copies[-1].value, group.level)


#: Of the inputs: the serial output, and the states before and after, by interval.
SerialRun = Callable[[Mapping[str, Any]], tuple[Any, dict[Interval, tuple[Any, Any]]]]


def serial_run(subject: Subject) -> SerialRun:
    """A function of the inputs: the serial output, and states by the interfaces between."""
    schedule = serial_schedule(subject.n, head=subject.head, groups=subject.groups)
    run = subject.run(schedule, {})

    def evaluate(inputs: Mapping[str, Any]) -> tuple[Any, dict[Interval, tuple[Any, Any]]]:
        output, pairs = run(inputs)
        found = {subject.interval(watch): pair for watch, pair in pairs.items()}
        return output, {
            interval: (before if interval[0] else None, after)
            for interval, (after, before) in found.items()
        }

    return evaluate


def guessed_schedule(once: Schedule, groups: Sequence[Stride] = ()) -> Schedule:
    """What a schedule of one sweep makes of its guesses, which are watched, and nothing else.

    A group's subnetworks make of the guess before the first of them one state after another.
    """
    fine = {task.piece: task for task in once if task.role is Role.FINE}
    guessed = [task for task in fine.values() if task.reads[0] != INPUT]
    watches = [Watch(0, task.piece, task.value, task.reads[0], level=2) for task in guessed]
    further: dict[str, Task] = {}
    for group in groups:
        first, row = fine[group.start + 1], list(_in_a_row(group, fine[group.start + 1].value))
        copies, watch = _watched(group, first.reads[0], row[-1].value)
        further |= {task.value: task for task in (*row, *copies)}
        watches.append(watch)
    tasks = (*needed(once, [task.value for task in guessed]), *further.values())
    found = replace(once, tasks=tasks, output=tasks[-1].value, watches=tuple(watches))
    return found.verify()


def _in_a_row(group: Stride, first: str) -> Iterator[Task]:
    """The subnetworks of a group one after another, from what the first has made."""
    names = [f"w{group.start}.{j}" for j in range(group.start + 1, group.end + 1)]
    yield Task(names[0], "combine", Role.COPY, (first,), signs="+", piece=group.start + 1)
    for j, (before, name) in enumerate(pairwise(names), start=group.start + 2):
        target = Target.fine(j)
        yield Task(name, "apply", Role.FINE, (before,), target, commits=False, piece=j)


def observe(
    subject: Subject,
    batches: Iterable[tuple[Inputs, bool]],
    into: Observed,
    device: torch.device,
    progress: Callable[[], None],
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Run the serial network once over the data and keep its states; ``enough`` ends it early.

    Where none is held out yet by then, the next batch is, so that there is one.
    """
    run, over = serial_run(subject), False
    for inputs, wanted in batches:
        held_out = wanted or over
        # Autograd may see copies of what was made in inference mode.
        plain = {k: v.clone() if v.is_inference() else v for k, v in inputs.items()}
        given = {name: value.to(device) for name, value in plain.items()}
        output, states = run(given)
        record = {"inputs": given, "output": output, "states": states}
        (into.held_out if held_out else into.fitted).append(record)
        progress()
        over = over or (len(into.fitted) > 0 and enough())
        if over and len(into.held_out):
            break


def respond(
    subject: Subject, parts: Mapping[Target, Propagator], records: Store, into: Store
) -> None:
    """Keep, for every record, guesses before subnetworks and groups, and what becomes of them."""
    run = subject.run(guessed_schedule(subject.schedule(1), subject.groups), parts)
    for record in records:
        pairs = run(record["inputs"])[1]
        states = {subject.interval(watch): pair for watch, pair in pairs.items()}
        into.append({interval: (before, after) for interval, (after, before) in states.items()})
