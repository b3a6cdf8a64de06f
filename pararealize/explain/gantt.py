"""Gantt: what a picture of a schedule shows, whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass

from pararealize.cost.predict import predict, predict_on_lanes
from pararealize.cost.simulate import Timeline, simulate
from pararealize.ir.plan import Plan
from pararealize.ir.schedule import Schedule
from pararealize.ir.task import Role, Task
from pararealize.schedule.place import place

#: What tasks are drawn as, in words.
KINDS = {
    Role.FINE: "subnetwork",
    Role.FEATURES: "subnetwork",
    Role.HEAD: "head",
    Role.GUESS: "guess",
    Role.COARSE: "correction",
}

#: Sums and differences of states.
SUM = "sum"

#: Fill and text of every kind: Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = {
    "subnetwork": ("#0072B2", "white"),
    "head": ("#56B4E9", "black"),
    "guess": ("#F0E442", "black"),
    "correction": ("#D55E00", "white"),
    SUM: ("#999999", "black"),
}

#: Where nothing is known of costs, a sum takes so much of the time of a subnetwork.
SMALL = 0.08


@dataclass(frozen=True)
class Bar:
    """A task of a rank, from ``start`` to ``stop``, drawn as a ``kind`` with a ``label``."""

    rank: int
    start: float
    stop: float
    kind: str
    label: str
    critical: bool

    def fitting(self, letters: int) -> str:
        """The label, or only its number, or nothing, in at most so many letters."""
        _, _, number = self.label.partition(" ")
        return next((text for text in (self.label, number) if len(text) <= letters), "")


@dataclass(frozen=True)
class Arrow:
    """A message: it leaves a rank at ``start`` and is at the other at ``stop``."""

    source: int
    target: int
    start: float
    stop: float


@dataclass(frozen=True)
class Gantt:
    """Tasks by rank and time, with the time that the ``serial`` network takes, where it is known.

    Times are in the unit that ``axis`` names.
    """

    title: str
    ranks: int
    bars: tuple[Bar, ...]
    arrows: tuple[Arrow, ...]
    axis: str
    serial: float = 0.0

    @property
    def end(self) -> float:
        """The last moment of the picture."""
        return max([self.serial, *(bar.stop for bar in self.bars)])

    @property
    def kinds(self) -> list[str]:
        """The kinds that occur, in the order of :data:`COLOURS`."""
        found = {bar.kind for bar in self.bars}
        return [kind for kind in COLOURS if kind in found]


def drawn_as(task: Task) -> str:
    """What a task is drawn as."""
    return KINDS.get(task.role, SUM)


def label_of(task: Task) -> str:
    """A task in words: ``subnetwork 2``, ``correction 2``, ``guess 1``, ``head``."""
    kind = drawn_as(task)
    if task.target is None or task.role is Role.HEAD:
        return kind
    level = f" on level {task.target.level}" if task.target.level > 2 else ""
    return f"{kind} {task.target.number}{level}"


def of_plan(plan: Plan, schedule: Schedule) -> Gantt:
    """A network's schedule against predicted milliseconds, on its ranks or one a subnetwork.

    On one device that subnetworks share, on its streams.
    """
    if plan.machine.sharing is not None:
        timeline = predict_on_lanes(plan, schedule)
        streams = timeline.schedule.ranks
        where = f"{streams} stream{'s' if streams > 1 else ''} of one device"
    else:
        placed = schedule if schedule.ranks > 1 else place(schedule, plan.n, plan.n)
        timeline = predict(plan, placed)
        where = f"{placed.ranks} rank{'s' if placed.ranks > 1 else ''}"
    method = type(plan.method).__name__
    title = (
        f"{plan.model} by {method}, n = {plan.n}, on {where}: "
        f"predicted {plan.speedup:.2f}× the speed of serial"
    )
    return gantt(timeline, title, serial=plan.serial_seconds)


def of_schedule(schedule: Schedule) -> Gantt:
    """A schedule alone, whose networks all take one step, on its ranks or one a subnetwork."""
    pieces = max((task.piece for task in schedule), default=1)
    placed = schedule if schedule.ranks > 1 else place(schedule, pieces, pieces)
    timeline = simulate(
        placed, lambda task: 1.0 / task.parts if task.target else SMALL, lambda _task: SMALL
    )
    return gantt(timeline, schedule.title or "schedule", axis="steps of one length", scale=1.0)


def gantt(
    timeline: Timeline,
    title: str = "",
    *,
    serial: float = 0.0,
    axis: str = "predicted milliseconds",
    scale: float = 1e3,
) -> Gantt:
    """What to draw of a timeline; ``scale`` makes the axis's unit of its seconds."""
    schedule, start, stop = timeline.schedule, timeline.start, timeline.stop
    critical = set(timeline.critical)
    bars = tuple(
        Bar(
            task.rank,
            start[i] * scale,
            stop[i] * scale,
            drawn_as(task),
            label_of(task),
            i in critical,
        )
        for i, task in enumerate(schedule.tasks)
        if task.op in {"apply", "combine"}
    )
    tasks = schedule.tasks
    arrows = tuple(
        Arrow(tasks[a].rank, tasks[b].rank, start[a] * scale, stop[b] * scale)
        for a, b in schedule.dag().edges
        if tasks[a].op == "send" and tasks[b].op == "recv"
    )
    return Gantt(title or schedule.title, schedule.ranks, bars, arrows, axis, serial * scale)
