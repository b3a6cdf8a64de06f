"""The schedule: a DAG of tasks in single-assignment form with two computing operations.

``apply(propagator, value)`` evaluates a network, ``combine(±values)`` adds states leaf by leaf;
``send`` and ``recv`` appear when tasks are placed on ranks, ``slice`` and ``join`` where parts of
a batch travel one behind another. Guesses, fine sweeps, jumps and
corrections are all programs of these. A schedule is decided, printed and verified without tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pararealize.errors import ScheduleError
from pararealize.ir.target import Target
from pararealize.ir.task import Task


@dataclass(frozen=True)
class Watch:
    """A difference worth reporting: from the value ``old`` to ``new`` at an interface in a sweep.

    For parareal the jump, for MGRIT the residual of a level's equation there.
    """

    sweep: int
    interface: int
    new: str
    old: str
    level: int = 1


@dataclass(frozen=True)
class Schedule:
    """Tasks in an order that runs; ``output`` is the value the network returns.

    ``inputs`` are the network's, and in a later stage what earlier ones made; ``sweeps`` are those
    of parareal that the output has gone through.
    """

    tasks: tuple[Task, ...]
    output: str
    watches: tuple[Watch, ...] = ()
    inputs: tuple[str, ...] = ()
    ranks: int = 1
    title: str = field(default="", compare=False)
    sweeps: int = 0

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def dag(self) -> Any:
        """The tasks as a ``networkx.DiGraph``: node i is task i, edges carry values or messages."""
        import networkx as nx  # noqa: PLC0415  it is slow to import, and needed to compile alone

        graph = nx.DiGraph()
        graph.add_nodes_from((i, {"task": task}) for i, task in enumerate(self.tasks))
        makers = {(task.rank, task.value): i for i, task in enumerate(self.tasks)}
        sends = {
            (t.rank, t.peer, t.reads[0]): i for i, t in enumerate(self.tasks) if t.op == "send"
        }
        for i, task in enumerate(self.tasks):
            for name in task.reads:
                if (task.rank, name) in makers:
                    graph.add_edge(makers[task.rank, name], i, value=name)
            if task.op == "recv" and (task.peer, task.rank, task.value) in sends:
                graph.add_edge(sends[task.peer, task.rank, task.value], i, value=task.value)
        return graph

    def verify(self) -> Schedule:
        """Itself, once every rule of a safe schedule is seen to hold.

        Single assignment; no use before definition; each send has its receive and each receive its
        send; the output exists; the order of every rank, together with the messages, is acyclic,
        so that no two ranks wait for each other.

        Raises:
            ScheduleError: names the first task that breaks a rule.

        """
        self._check_assignments()
        self._check_messages()
        self._check_deadlock()
        return self

    def _check_assignments(self) -> None:
        seen: set[tuple[int, str]] = set()
        for task in self.tasks:
            for name in task.reads:
                if (task.rank, name) not in seen and name not in self.inputs:
                    raise ScheduleError(
                        f"rank {task.rank}: {task} uses {name} before it is defined."
                    )
            if (task.rank, task.value) in seen:
                raise ScheduleError(f"rank {task.rank}: {task} assigns {task.value} twice.")
            if task.op == "combine" and len(task.signs) != len(task.reads):
                raise ScheduleError(
                    f"{task.value} combines {task.reads} with signs {task.signs!r}."
                )
            if not 0 <= task.rank < self.ranks:
                raise ScheduleError(f"{task} is placed on rank {task.rank} of {self.ranks}.")
            seen.add((task.rank, task.value))
        if not any(value == self.output for _, value in seen):
            raise ScheduleError(f"no task makes the output {self.output}.")

    def _check_messages(self) -> None:
        sent = Counter((t.rank, t.peer, t.reads[0]) for t in self.tasks if t.op == "send")
        received = Counter((t.peer, t.rank, t.value) for t in self.tasks if t.op == "recv")
        for source, target, value in (sent - received) + (received - sent):
            lacks = "receive" if (source, target, value) in sent - received else "send"
            raise ScheduleError(f"message {value} from rank {source} to {target} has no {lacks}.")

    def _check_deadlock(self) -> None:
        """Raise where ranks wait for each other; without messages nothing reads what is later."""
        if all(task.op != "recv" for task in self.tasks):
            return
        import networkx as nx  # noqa: PLC0415

        graph = self.dag()
        last: dict[int, int] = {}
        for i, task in enumerate(self.tasks):
            if task.rank in last:
                graph.add_edge(last[task.rank], i)
            last[task.rank] = i
        if not nx.is_directed_acyclic_graph(graph):
            cycle = nx.find_cycle(graph)
            waits = " → ".join(f"[rank {self.tasks[a].rank}] {self.tasks[a]}" for a, *_ in cycle)
            raise ScheduleError(f"ranks wait for each other: {waits}.")

    def steps(self) -> list[list[int]]:
        """Tasks by the step at which they can start, counted in tasks, every rank busy with one.

        Step s holds what runs when all tasks take one unit of time and ranks follow their order.
        """
        graph, free = self.dag(), Counter[int]()
        start: dict[int, int] = {}
        for i, task in enumerate(self.tasks):
            ready = max((start[p] + 1 for p in graph.predecessors(i)), default=0)
            start[i] = max(ready, free[task.rank])
            free[task.rank] = start[i] + 1
        rows: list[list[int]] = [[] for _ in range(max(start.values(), default=-1) + 1)]
        for i, step in start.items():
            rows[step].append(i)
        return rows

    def grid(self) -> list[list[str]]:
        """The rank × step table: ``grid()[rank][step]`` is the task's text, or an empty one."""
        steps = self.steps()
        table = [[""] * len(steps) for _ in range(self.ranks)]
        for step, row in enumerate(steps):
            for i in row:
                table[self.tasks[i].rank][step] = str(self.tasks[i])
        return table

    def text(self) -> str:
        """The schedule for people: one line a step, one column a rank."""
        columns = self.grid()
        widths = [max([len(cell) for cell in column] + [6]) for column in columns]
        lines = ["step  " + "  ".join(f"rank {r}".ljust(w) for r, w in enumerate(widths))]
        for step, row in enumerate(zip(*columns, strict=True)):
            cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"{step:>4}  {cells}".rstrip())
        return "\n".join(lines)

    __str__ = text

    def _repr_html_(self) -> str:
        from pararealize.explain.notebook import schedule_html  # noqa: PLC0415  only where it is shown

        return schedule_html(self)


def targets(tasks: Iterable[Task]) -> tuple[Target, ...]:
    """The propagators that tasks apply, in order of first use."""
    return tuple(dict.fromkeys(task.target for task in tasks if task.target is not None))


def needed(tasks: Iterable[Task], roots: Iterable[str]) -> list[Task]:
    """Tasks that the values ``roots`` depend on, in order."""
    wanted = set(roots)
    kept: list[Task] = []
    for task in reversed(list(tasks)):
        if task.value in wanted:
            kept.append(task)
            wanted.update(task.reads)
    return kept[::-1]


def commit_last(
    tasks: Sequence[Task], network: Callable[[Target], Target] = lambda target: target
) -> tuple[Task, ...]:
    """The tasks, of which the last application of every network moves its statistics.

    Of adjoints, it takes the gradients of its weights. ``network`` says of propagators that are
    one network which of them stands for it.
    """
    known = [None if task.target is None else network(task.target) for task in tasks]
    last = {each: i for i, each in enumerate(known)}
    moves = (each is None or last[each] == i for i, each in enumerate(known))
    return tuple(
        task if task.commits is commits else replace(task, commits=commits)
        for task, commits in zip(tasks, moves, strict=True)
    )
