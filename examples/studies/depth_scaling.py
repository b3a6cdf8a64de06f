"""Depth scaling: layer-parallel networks of papers on ranks of this machine, and foretold beyond.

Günther, Ruthotto, Schroder, Cyr and Gauger, "Layer-Parallel Training of Deep Residual Neural
Networks" (arXiv:1812.04352): Peaks, Indian Pines and MNIST.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pararealize import MGRIT
from pararealize.cli.trust import run as run_on_ranks
from pararealize.explain.table import Table
from pararealize.forecast import forecast
from pararealize.ir.plan import Machine
from pararealize.models import odenet


@dataclass(frozen=True)
class Subject:
    """A network of so many layers, the shape of a batch, and what stands for several layers.

    Weights are drawn, and time ends at 1: averaged weights are right for layers that are affine
    inside one nonlinearity.
    """

    make: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    coarse: str

    def batch(self) -> Tensor:
        """Numbers to run on; how long a step takes does not depend on them."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


def _dense(width: int, inputs: int, classes: int) -> Callable[[int], nn.Module]:
    return lambda layers: odenet(layers, width=width, in_features=inputs, classes=classes)


def _convolutions(layers: int) -> nn.Module:
    """Steps of two convolutions in eight channels."""
    network: nn.Module = odenet(layers, kind="conv", width=8)
    return network


SUBJECTS = {
    "Peaks": Subject(_dense(8, 2, 5), (1000, 2), "mean"),
    "Indian Pines": Subject(_dense(220, 220, 16), (500, 220), "mean"),
    "MNIST": Subject(_convolutions, (32, 1, 28, 28), "rediscretized"),
}


@dataclass(frozen=True)
class Scaled:
    """A step of a subject's network of so many layers, on ranks of one thread: seconds.

    ``kind`` is what scales, ``strong`` or ``weak``; ``measured`` is nothing where it is foretold.
    """

    subject: str
    kind: str
    step: str
    layers: int
    ranks: int
    serial: float
    predicted: float
    measured: float | None = None


def method(subject: Subject, levels: int, coarsening: int) -> MGRIT:
    """A cycle for the states and one for their adjoints; deep hierarchies guess from their end."""
    guess = "coarse" if levels == 2 else "coarsest"
    return MGRIT(
        levels=levels,
        coarsening=coarsening,
        coarse=subject.coarse,
        guess=guess,
        forward_cycles=1,
        backward_cycles=1,
    )


def measure(subject: str, layers: int, coarsening: int, comm: Any, into: Path) -> None:
    """Both steps of a network on the ranks of ``comm``, in turns with the serial network."""
    torch.manual_seed(0)
    own = SUBJECTS[subject]
    run_on_ranks(own.make(layers), method(own, 2, coarsening), (own.batch(),), comm, str(into))


def measured(subject: str, kind: str, layers: int, file: Path) -> list[Scaled]:
    """What :func:`measure` wrote."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [
        Scaled(
            *(subject, kind, row["step"], layers, row["ranks"]),
            *(row["serial"], row["predicted"], row["measured"]),
        )
        for row in rows
    ]


def foretold(
    subject: str, layers: int, ranks: Sequence[int], levels: int, coarsening: int, machine: Machine
) -> list[Scaled]:
    """An evaluation on more ranks than there are, with rates of this machine; refused ones not."""
    own = SUBJECTS[subject]
    found = forecast(
        own.make(layers),
        ranks,
        method=method(own, levels, coarsening),
        machine=machine,
        example_inputs=(own.batch(),),
    )
    name = f"foretold, {levels} levels"
    return [
        Scaled(subject, name, "inference", layers, e.n, found.serial.seconds, e.seconds)
        for e in found.estimates
        if not e.refused
    ]


def saved(rows: Sequence[Scaled], file: Path) -> None:
    """Write the rows as JSON."""
    file.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def table(title: str, rows: Sequence[Scaled]) -> Table:
    """Milliseconds and speedups, measured and predicted, a row each."""
    cells = [
        (
            *(row.subject, row.kind, row.step, f"{row.layers}", f"{row.ranks} × 1"),
            *(f"{row.serial * 1e3:.3g}", f"{row.predicted * 1e3:.3g}", _ms(row.measured)),
            f"{row.serial / row.predicted:.2f}×",
            "–" if row.measured is None else f"{row.serial / row.measured:.2f}×",
            "–" if row.measured is None else f"{row.predicted / row.measured - 1:+.0%}",
        )
        for row in rows
    ]
    columns = (
        *("data", "scaling", "step", "layers", "ranks × threads", "serial ms", "predicted"),
        *("measured", "speedup predicted", "measured ", "off by"),
    )
    return Table(title, columns, cells, left=("data", "scaling", "step"))


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.3g}"


def draw(rows: Sequence[Scaled], file: Path) -> None:
    """Speedup against ranks, a picture for each subject: predictions as lines, measured as dots."""
    from matplotlib import pyplot  # noqa: PLC0415  only where there is a picture

    names = list(dict.fromkeys(row.subject for row in rows))
    size = (4.5 * len(names), 3.8)
    figure, axes = pyplot.subplots(1, len(names), figsize=size, layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        lines: dict[tuple[str, str], list[Scaled]] = {}
        for row in rows:
            if row.subject == name:
                lines.setdefault((row.kind, row.step), []).append(row)
        for i, ((kind, step), own) in enumerate(lines.items()):
            deepest = [row for row in own if row.layers == max(row.layers for row in own)]
            shown = own if kind == "weak" else deepest
            ranks = [row.ranks for row in shown]
            predicted = [row.serial / row.predicted for row in shown]
            label = f"{kind}, {step}" if kind == "weak" else f"{kind}, {step}, {shown[0].layers}"
            ax.plot(ranks, predicted, color=f"C{i}", label=label, linewidth=1)
            dots = [(row.ranks, row.serial / row.measured) for row in shown if row.measured]
            ax.plot(*zip(*dots, strict=True), "o", color=f"C{i}") if dots else None
        ax.set(xscale="log", yscale="log", xlabel="ranks", ylabel="times faster", title=name)
        ax.legend(frameon=False, fontsize=7)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
