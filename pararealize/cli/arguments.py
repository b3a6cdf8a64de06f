"""Arguments: what the commands take, and how they say it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pararealize.cli import data as sources
from pararealize.cli.specs import FORMS
from pararealize.ir.calibration import ABOVE
from pararealize.ir.methods import Parareal, coarse_names

Model = Annotated[str, typer.Argument(help=f"{FORMS}.")]
Count = Annotated[str, typer.Option("-n", help="Number of subnetworks, or 'auto'.")]
COARSE = f"One of {', '.join(coarse_names(Parareal))}."
Coarse = Annotated[str, typer.Option(help=COARSE)]
Correction = Annotated[str, typer.Option(help="residual or difference.")]
Iterations = Annotated[int, typer.Option(help="Parareal sweeps.")]
Tolerance = Annotated[
    float | None, typer.Option(help="Further sweeps while a relative jump is larger.")
]
Guess = Annotated[str, typer.Option(help="network or coarse.")]
Budget = Annotated[
    float, typer.Option(help="Largest share of a subnetwork that a coarse network may cost.")
]
Depth = Annotated[
    str, typer.Option(help="Blocks that a coarse network keeps: of all, or of each, such as 4,1.")
]
Low = Annotated[float, typer.Option(help="Share of their rank that factored layers keep.")]
Grid = Annotated[
    str,
    typer.Option("--mgrit", help="MGRIT instead, with options: coarsening=8,levels=3,coarse=mean."),
]
Shape = Annotated[
    str, typer.Option(help="Input shape such as 2,3,224,224, where it cannot be inferred.")
]
Cut = Annotated[list[str] | None, typer.Option("--cut", help="Module to cut after; repeat.")]
Blocks = Annotated[
    str, typer.Option(help="Name of the list of blocks, where the network cannot be traced.")
]
Ranks = Annotated[int, typer.Option(help="Processes under mpiexec, one thread each.")]
Worker = Annotated[str, typer.Option(hidden=True)]
#: Options that some others leave without an effect.
READING = ("batch", "mean", "std")
FITTING = ("agreement", "above", "epochs", "rate", "best", "seed", *READING)
PARAREAL = (
    *("coarse", "correction", "iterations", "tolerance", "guess", "coarse_budget"),
    *("coarse_depth", "coarse_rank"),
)
#: What a default depends on.
CALIBRATED = "By default {} with --calibrate."
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Trained weights of MODEL: .safetensors, or .pt of tensors."),
]
Calibrate = Annotated[
    str, typer.Option("--calibrate", metavar="DATA", help=f"Fit to DATA: {sources.FORMS}.")
]
Checked = Annotated[
    str, typer.Option("--data", metavar="DATA", help=f"Compare on DATA: {sources.FORMS}.")
]
Agreement = Annotated[
    float, typer.Option(help="Share of held-out answers that have to be the serial network's.")
]
Above = Annotated[str, typer.Option(help=f"What a doubtful answer leads to: {', '.join(ABOVE)}.")]
Epochs = Annotated[int, typer.Option(help="Passes over the data in each round of fitting.")]
Rate = Annotated[float, typer.Option(help="Largest learning rate of fitting.")]
Batch = Annotated[int, typer.Option(help="Samples that are read at a time.")]
Best = Annotated[
    bool, typer.Option("--best", help="Write the best network even if it agrees less often.")
]
Mean = Annotated[
    str, typer.Option(help="Of images in [0, 1], to subtract: one number, or one a channel.")
]
Std = Annotated[str, typer.Option(help="Of images, to divide by, likewise.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of readable errors.")]
