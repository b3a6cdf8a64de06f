"""Curves: jumps and residuals against interfaces, drawn by matplotlib where it is installed."""

from __future__ import annotations

from typing import Any

from pararealize.errors import MissingPackageError
from pararealize.runtime.monitoring.report import Jump, Report


def plot_report(report: Report, axes: Any = None) -> Any:
    """One line a sweep or cycle: relative jumps at the interfaces; those of adjoints are dashed.

    Raises:
        MissingPackageError: matplotlib is not installed.

    """
    axes = _axes() if axes is None else axes
    axes.xaxis.get_major_locator().set_params(integer=True)
    what = "cycle" if report.calls else "sweep"
    lines = [*_lines(report.jumps, what, "-"), *_lines(report.adjoints, "adjoint cycle", "--")]
    for i, (name, style, places, sizes) in enumerate(lines):
        shade = 0.75 * i / max(1, len(lines) - 1)
        colour = (shade, shade, shade)  # later sweeps are lighter, which everybody can tell
        axes.plot(places, sizes, style, marker="o", markersize=3, color=colour, label=name)
    axes.set_xlabel("interface")
    axes.set_ylabel("relative jump")
    if lines:
        axes.set_yscale("log")
        axes.legend(frameon=False)
    return axes


def _axes() -> Any:
    try:
        from matplotlib import pyplot  # noqa: PLC0415  matplotlib may be missing
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "net.report.plot() draws with matplotlib, which is not installed: pip install "
            "matplotlib; print(net.report) shows the same numbers as text."
        ) from error
    return pyplot.subplots(figsize=(7, 4), layout="constrained")[1]


def _lines(
    jumps: tuple[Jump, ...], what: str, style: str
) -> list[tuple[str, str, list[int], list[float]]]:
    """Name, style, interfaces and relative jumps of every sweep, without zeros."""
    lines = []
    for sweep in sorted({jump.sweep for jump in jumps if jump.level == 1}):
        found = sorted((j.interface, j.relative) for j in jumps if (j.sweep, j.level) == (sweep, 1))
        sizes = [size or float("nan") for _, size in found]
        lines.append((f"{what} {sweep}", style, [place for place, _ in found], sizes))
    return lines
