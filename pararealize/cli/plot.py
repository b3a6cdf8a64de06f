"""Pictures: a schedule against time, and curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pararealize.cost.simulate import Timeline
from pararealize.ir.task import Role, Task

COLOURS = {
    "fine": "#3b6ea5",
    "head": "#1b3a5c",
    "guess": "#e2b04a",
    "coarse": "#c8553d",
    "combine": "#8fb339",
}


#: What tasks are drawn as, where they are no combinations.
DRAWN = {
    Role.FINE: "fine",
    Role.FEATURES: "fine",
    Role.HEAD: "head",
    Role.GUESS: "guess",
    Role.COARSE: "coarse",
}


def drawn_as(task: Task) -> str:
    """What a task is drawn as."""
    return DRAWN.get(task.role, "combine")


def draw_schedule(timeline: Timeline, title: str = "") -> Figure:
    """One row a rank, time to the right; arrows are messages, dark edges the critical path."""
    schedule = timeline.schedule
    figure = Figure(figsize=(10, 0.7 + 0.55 * schedule.ranks), layout="constrained")
    axes = figure.add_subplot()
    for i, task in enumerate(schedule.tasks):
        if task.op in {"apply", "combine"}:
            width = (timeline.stop[i] - timeline.start[i]) * 1e3
            edge = "black" if i in timeline.critical else "none"
            axes.barh(
                task.rank,
                width,
                left=timeline.start[i] * 1e3,
                height=0.72,
                color=COLOURS[drawn_as(task)],
                edgecolor=edge,
                linewidth=0.8,
            )
            if width > 0.06 * timeline.makespan * 1e3:
                middle = timeline.start[i] * 1e3 + width / 2
                axes.text(middle, task.rank, task.value, ha="center", va="center", color="white")
    _draw_messages(axes, timeline)
    axes.set_yticks(range(schedule.ranks), [f"rank {r}" for r in range(schedule.ranks)])
    axes.invert_yaxis()
    axes.set_xlabel("predicted milliseconds")
    axes.set_title(title or schedule.title, loc="left")
    used = {drawn_as(t) for t in schedule.tasks if t.op in {"apply", "combine"}}
    handles = [Patch(color=c, label=name) for name, c in COLOURS.items() if name in used]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _draw_messages(axes: object, timeline: Timeline) -> None:
    graph = timeline.schedule.dag()
    tasks = timeline.schedule.tasks
    for a, b in graph.edges:
        if tasks[a].op == "send" and tasks[b].op == "recv":
            axes.annotate(  # type: ignore[attr-defined]
                "",
                xy=(timeline.stop[b] * 1e3, tasks[b].rank - 0.3),
                xytext=(timeline.start[a] * 1e3, tasks[a].rank + 0.3),
                arrowprops={"arrowstyle": "-|>", "color": "#555555", "linewidth": 0.8},
            )


def draw_curves(curves: Mapping[str, Sequence[float]], ylabel: str, xlabel: str) -> Figure:
    """One line a network: a running mean of a figure against training steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.4)
    axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    return figure


def write_figure(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` as PNG and as SVG; the files written."""
    FigureCanvasAgg(figure)
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    return files
