"""Observe: states of the serial network, and of guesses, at every interface, and their store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, final

import torch
from torch import Tensor

from pararealize.calibration.data import Inputs
from pararealize.calibration.subject import Evaluation, Subject
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

    A record holds ``inputs``, the serial ``output`` and for each subnetwork j of this rank the
    ``states`` before and after it, (u_{j-1}, u_j); before the first there is none.
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


def states_of(record: Mapping[str, Any], j: int) -> tuple[Any, Any]:
    """States before and after subnetwork j, of which the first may lie on another rank."""
    states: Mapping[int, tuple[Any, Any]] = record["states"]
    return (None, states[2][0]) if j == 1 and 1 not in states else states[j]


def serial_schedule(n: int, *, head: bool) -> Schedule:
    """The serial network, one subnetwork after another, each with its states watched."""
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
    watches = tuple(Watch(0, j, states[j], before[j - 1]) for j in range(1, n + 1))
    return Schedule(tuple(tasks), tasks[-1].value, watches, (INPUT,), title="serial").verify()


def serial_run(subject: Subject) -> Evaluation:
    """A function of the inputs: the serial output, and the states after and before each piece."""
    return subject.run(serial_schedule(subject.n, head=subject.head), {})


def guessed_schedule(once: Schedule) -> Schedule:
    """What a schedule of one sweep makes of its guesses, which are watched, and nothing else."""
    fine = {task.target: task for task in once if task.role is Role.FINE}
    guessed = [task for task in fine.values() if task.reads[0] != INPUT]
    watches = tuple(Watch(0, task.piece, task.value, task.reads[0]) for task in guessed)
    tasks = tuple(needed(once, [task.value for task in guessed]))
    return replace(once, tasks=tasks, output=tasks[-1].value, watches=watches)


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
        output, pairs = run(given)
        states = {j: (None if j == 1 else before, after) for j, (after, before) in pairs.items()}
        record = {"inputs": given, "output": output, "states": states}
        (into.held_out if held_out else into.fitted).append(record)
        progress()
        over = over or (len(into.fitted) > 0 and enough())
        if over and len(into.held_out):
            break


def respond(
    subject: Subject, parts: Mapping[Target, Propagator], records: Store, into: Store
) -> None:
    """Keep, for every record, guesses before each subnetwork and what it makes of them."""
    run = subject.run(guessed_schedule(subject.schedule(1)), parts)
    for record in records:
        pairs = run(record["inputs"])[1]
        into.append({j: (before, after) for j, (after, before) in pairs.items()})
