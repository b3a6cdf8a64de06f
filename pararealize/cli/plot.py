"""Pictures: a schedule against time, and curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pararealize.explain.gantt import COLOURS, Bar, Gantt
from pararealize.ir.forecast import Forecast
from pararealize.ir.methods import Parareal

#: Inches: of a row of few ranks, and of the rows of many, which share a page.
ROW, PAGE = 0.5, 8.5

#: Inches that a letter takes, and the least height of a row whose bars have labels.
LETTER, READABLE = 0.075, 0.2

#: Inches of the axis of time, more or less.
ACROSS = 10.0


def draw_schedule(gantt: Gantt) -> Figure:
    """One row a rank, time to the right; black edges are the critical path, lines are messages."""
    row = min(ROW, PAGE / gantt.ranks)
    figure = Figure(figsize=(11, 1.6 + row * gantt.ranks), layout="constrained")
    axes = figure.add_subplot()
    for bar in gantt.bars:
        _draw_bar(axes, bar, row, gantt.end)
    for arrow in gantt.arrows:
        down = 1 if arrow.target > arrow.source else -1
        ends = [arrow.source + 0.38 * down, arrow.target - 0.38 * down]
        axes.plot([arrow.start, arrow.stop], ends, color="#444444", linewidth=0.6)
    if gantt.serial:
        axes.axvline(gantt.serial, color="black", linestyle="--", linewidth=1)
    shown = range(0, gantt.ranks, max(1, round(READABLE / row)))
    axes.set_yticks(shown, [f"rank {rank}" for rank in shown])
    axes.set_ylim(gantt.ranks - 0.4, -0.6)
    axes.set_xlim(0, gantt.end * 1.01 or 1)
    axes.set_xlabel(gantt.axis)
    figure.suptitle(gantt.title, x=0.01, ha="left", fontsize=11)
    figure.legend(handles=_legend(gantt), loc="outside lower left", ncols=7, frameon=False)
    return figure


def _draw_bar(axes: Any, bar: Bar, row: float, end: float) -> None:
    width, (fill, ink) = bar.stop - bar.start, COLOURS[bar.kind]
    edge = "black" if bar.critical else "none"
    options = {"left": bar.start, "height": 0.76, "color": fill, "edgecolor": edge}
    axes.barh(bar.rank, width, linewidth=1.2, **options)
    label = bar.fitting(int(width / end * ACROSS / LETTER)) if row >= READABLE else ""
    words = {"ha": "center", "va": "center", "color": ink, "fontsize": "small"}
    axes.text(bar.start + width / 2, bar.rank, label, **words)


def _legend(gantt: Gantt) -> list[Any]:
    handles: list[Any] = [Patch(color=COLOURS[kind][0], label=kind) for kind in gantt.kinds]
    handles.append(Patch(facecolor="none", edgecolor="black", label="critical path"))
    if gantt.serial:
        text = f"serial network, {gantt.serial:.3g} ms"
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=1, label=text))
    return handles


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


def draw_scaling(found: Forecast) -> Figure:
    """Speedup against the number of devices, of parallel depth and of what else they could do."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, rows = figure.add_subplot(), [e for e in found.estimates if not e.refused]
    serial, devices = found.serial.seconds, [e.n for e in rows]
    lines: dict[str, list[float | None]] = {
        "parallel depth": [serial / e.seconds for e in rows],
        "a network that grows with the devices": [
            e.weak_serial / e.weak if e.weak else None for e in rows
        ],
        "pipeline": [serial / e.pipeline for e in rows],
        "replicas": [serial / e.replicas if e.replicas else None for e in rows],
    }
    styles = (
        ("#0072b2", "-", "o"),
        ("#009e73", "--", "s"),
        ("#d55e00", ":", "^"),
        ("#555555", "-.", "v"),
    )
    for (name, values), (colour, line, marker) in zip(lines.items(), styles, strict=True):
        known = [(n, value) for n, value in zip(devices, values, strict=True) if value is not None]
        if known:
            look: Any = {"color": colour, "linestyle": line, "marker": marker, "label": name}
            axes.plot([n for n, _ in known], [value for _, value in known], **look)
    axes.plot(devices, devices, color="#bbbbbb", linewidth=0.8, label="as many times as devices")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("devices")
    axes.set_ylabel("times faster than one device")
    axes.set_title(f"{found.model}, {found.layers} layers", loc="left", fontsize=11)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_methods(found: Sequence[tuple[str, Forecast]]) -> Figure:
    """Speedup against the number of devices, one line a method, parareal's dashed."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, each) in enumerate(found):
        rows = [e for e in each.estimates if not e.refused]
        speedups = [each.serial.seconds / e.seconds for e in rows]
        dashed = "--" if isinstance(each.method, Parareal) else "-"
        marker = "osv^Dx*+"[i % 8]
        axes.plot([e.n for e in rows], speedups, label=name, marker=marker, linestyle=dashed)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("devices")
    axes.set_ylabel("times faster than one device")
    first = found[0][1]
    axes.set_title(f"{first.model}, {first.layers} layers", loc="left", fontsize=11)
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def write_figure(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` as PNG and as SVG; the files written."""
    FigureCanvasAgg(figure)
    files = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    return files
