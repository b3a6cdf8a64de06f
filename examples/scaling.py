"""Peaks, Indian Pines and MNIST: strong and weak scaling in depth, measured here, foretold beyond.

Layer-parallel neural ODEs by MGRIT on 1, 2 and 4 ranks of one thread each, which the command starts
itself: an answer and a training step in turns with the serial network's, medians and their ratios,
beside what the schedule's simulator says of each; and foretold on up to 1,024 ranks with the rates
of this machine:

    python examples/scaling.py --picture docs/depth_scaling.png

Strong scaling keeps the layers, weak scaling gives every rank as many. MNIST's steps have two
convolutions. Ranks beyond the cores share them, in the predictions as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from pararealize.cost.rates import measured_machine
from pararealize.errors import PararealizeError
from studies.depth_scaling import (
    SUBJECTS,
    Scaled,
    draw,
    foretold,
    measure,
    measured,
    saved,
    table,
)
from studies.running import again, start


def cases(options: Namespace) -> dict[tuple[int, int], list[str]]:
    """Layers and ranks that are measured, and whether for strong or weak scaling."""
    found: dict[tuple[int, int], list[str]] = {}
    for ranks in options.ranks:
        for layers in options.layers:
            found.setdefault((layers, ranks), []).append("strong")
        found.setdefault((options.each * ranks, ranks), []).append("weak")
    return found


def on_ranks(options: Namespace, subject: str) -> list[Scaled]:
    """Every case on ranks of this machine, one after another."""
    rows: list[Scaled] = []
    for (layers, ranks), kinds in cases(options).items():
        with tempfile.TemporaryDirectory() as folder:
            into, begin = Path(folder, "rows.json"), time.perf_counter()
            told = "--case", subject, str(layers), "--into", str(into)
            if again(*told, ranks=ranks).returncode:
                raise PararealizeError(f"{subject}: {layers} layers did not run on {ranks} ranks.")
            for kind in kinds:
                rows += measured(subject, kind, layers, into)
        seconds = time.perf_counter() - begin
        print(f"{subject}, {layers} layers, {ranks} ranks: {seconds:.0f} s", flush=True)
    return sorted(rows, key=lambda row: (row.kind, row.step, row.layers, row.ranks))


def beyond(options: Namespace, subject: str) -> list[Scaled]:
    """Foretold: the deepest network on more and more ranks, with two levels and with more."""
    machine, counts = measured_machine(), [1]
    while 2 * counts[-1] <= options.foretell:
        counts.append(2 * counts[-1])
    deep = max(options.foretell, *options.layers)
    return [
        row
        for levels in options.levels
        for row in foretold(subject, deep, counts, levels, 4, machine)
    ]


def parser_of() -> ArgumentParser:
    """Options; ``--case`` is for ranks, which the command starts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=sorted(SUBJECTS), nargs="+", default=list(SUBJECTS))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--layers", type=int, nargs="+", default=[64, 256], help="strong scaling")
    parser.add_argument("--each", type=int, default=64, help="layers of a rank, weak scaling")
    parser.add_argument("--coarsening", type=int, default=8, help="layers of a coarse step")
    parser.add_argument("--foretell", type=int, default=1024, help="most ranks and layers; 0: none")
    parser.add_argument("--levels", type=int, nargs="+", default=[2, 5], help="foretold")
    parser.add_argument("--picture", type=Path, help="a file to draw into")
    parser.add_argument("--save", type=Path, help="a file for the numbers, JSON")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Measure, foretell, print the table and draw the picture."""
    options = parser_of().parse_args()
    torch.set_num_threads(1)
    if options.case:
        from mpi4py import MPI  # noqa: PLC0415  on ranks only

        subject, layers = options.case
        measure(subject, int(layers), options.coarsening, MPI.COMM_WORLD, options.into)
        return
    rows: list[Scaled] = []
    for subject in options.only:
        rows += on_ranks(options, subject)
        if options.foretell:
            rows += beyond(options, subject)
    print(table("layer-parallel networks: seconds of a step, one thread a rank", rows))
    if options.save:
        saved(rows, options.save)
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    start(main)
