"""Arguments: what the commands take, how they say it, and what it makes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, final

import typer
from torch import Tensor, nn

from pararealize.cli import data as sources
from pararealize.cli import options
from pararealize.cli.data import Reading
from pararealize.cli.launch import launch, world
from pararealize.cli.options import names_of
from pararealize.cli.specs import FORMS
from pararealize.cli.terminal import Printer
from pararealize.compiler import pararealize
from pararealize.errors import SlowerThanSerialWarning
from pararealize.ir.calibration import ABOVE, Fitting
from pararealize.ir.methods import Method, Parareal, coarse_names
from pararealize.network import ParallelNetwork

Model = Annotated[str, typer.Argument(help=f"{FORMS}.")]
Tolerance = Annotated[
    float | None, typer.Option(help="Further sweeps while a relative jump is larger.")
]
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
Worker = Annotated[str, typer.Option(hidden=True)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of readable errors.")]

KINDS = ", ".join(coarse_names(Parareal))
#: What a default depends on.
USUAL = "By default {}, with convert --calibrate {}."


@final
@dataclass(frozen=True)
class MethodOptions:
    """How a network is made parallel; what is empty is as usual."""

    coarse: Annotated[
        str, typer.Option(help=f"One of {KINDS}. {USUAL.format('network', 'auto')}")
    ] = ""
    correction: Annotated[
        str, typer.Option(help=f"residual or difference. {USUAL.format('residual', 'difference')}")
    ] = ""
    iterations: Annotated[int, typer.Option(help="Parareal sweeps.")] = 1
    guess: Annotated[
        str, typer.Option(help=f"network or coarse. {USUAL.format('network', 'coarse')}")
    ] = ""
    coarse_budget: Annotated[
        float, typer.Option(help="Largest share of a subnetwork that a coarse network may cost.")
    ] = Parareal.coarse_budget
    coarse_depth: Annotated[
        str,
        typer.Option(help="Blocks that a coarse network keeps: of all, or of each, such as 4,1."),
    ] = str(Parareal.coarse_depth)
    coarse_rank: Annotated[
        float, typer.Option(help="Share of their rank that factored or wide layers keep.")
    ] = Parareal.coarse_rank
    parareal_levels: Annotated[
        str, typer.Option(help="Levels of parareal's corrections: 3 for groups of subnetworks.")
    ] = str(Parareal.levels)
    parareal_coarsening: Annotated[
        str, typer.Option(help="Subnetworks in a group, such as 4, or of every level: 4,2.")
    ] = ""
    mgrit: Annotated[
        str, typer.Option(help="MGRIT instead, with options: coarsening=8,levels=3,coarse=mean.")
    ] = ""

    def method(
        self, context: typer.Context, tolerance: float | None = None, *, calibrated: bool = False
    ) -> Method:
        """The method, with the usual coarse networks where none are named.

        Raises:
            MethodError: an option has a value it cannot take, or changes nothing.

        """
        coarse = self.coarse or ("auto" if calibrated else "network")
        correction = self.correction or ("difference" if calibrated else "residual")
        guess = self.guess or ("coarse" if calibrated else "network")
        if self.mgrit:
            names = {*names_of(MethodOptions), "tolerance"} - {"mgrit"}
            options.refuse(context, sorted(names), "with --mgrit, name its own options there")
        options.check_kinds(context, coarse)
        depths = options.integers(self.coarse_depth, "--coarse-depth")
        depth = depths if len(depths) > 1 else depths[0]
        text = self.parareal_levels
        levels: int | str = int(text) if text.isdecimal() else text
        groups = self.parareal_coarsening
        sizes = options.integers(groups, "--parareal-coarsening", 2) if groups else ()
        parareal = Parareal(
            *(coarse, correction, self.iterations, guess, depth, self.coarse_budget),
            tolerance=tolerance,
            coarse_rank=self.coarse_rank,
            levels=levels,
            coarsening=(sizes if len(sizes) > 1 else sizes[0]) if sizes else None,
        )
        return options.method_of(self.mgrit, parareal)


#: Shape of a network's input.
Shape = Annotated[
    str, typer.Option(help="Input shape such as 2,3,224,224, where it cannot be inferred.")
]


@final
@dataclass(frozen=True)
class Cutting:
    """Where a network is cut, and for which inputs, as the command line says it."""

    n: Annotated[str, typer.Option("-n", help="Number of subnetworks, or 'auto'.")] = "auto"
    shape: Shape = ""
    blocks: Annotated[
        str, typer.Option(help="Name of the list of blocks, where the network cannot be traced.")
    ] = ""
    cut: Annotated[list[str] | None, typer.Option("--cut", help="Module to cut after; repeat.")] = (
        None
    )
    verify: Annotated[
        bool, typer.Option(help="Compare what was traced with the model, bit for bit.")
    ] = True

    def compile(
        self,
        model: nn.Module,
        method: Method,
        example: tuple[Tensor, ...] | None = None,
        comm: Any = None,
    ) -> ParallelNetwork:
        """The network, for inputs of the shape given; whether it pays is left to what is printed.

        An ``example`` comes before the shape.
        """
        example = example or options.example_of(self.shape)
        count: Any = int(self.n) if self.n.lstrip("-").isdigit() else self.n
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowerThanSerialWarning)
            return pararealize(
                model,
                count,
                method=method,
                example_inputs=example,
                interfaces=self.cut or None,
                blocks=self.blocks or None,
                comm=comm,
                verify=self.verify,
                progress=count == "auto" and Printer.of(comm).progress,
            )


@final
@dataclass(frozen=True)
class ReadingOptions:
    """How data is read."""

    batch: Annotated[int, typer.Option(help="Samples that are read at a time.")] = Reading.batch
    mean: Annotated[
        str, typer.Option(help="Of images in [0, 1], to subtract: one number, or one a channel.")
    ] = ""
    std: Annotated[str, typer.Option(help="Of images, to divide by, likewise.")] = ""

    @property
    def reading(self) -> Reading:
        """How data is read, in numbers.

        Raises:
            MethodError: some are none.

        """
        mean, std = options.numbers(self.mean, "--mean"), options.numbers(self.std, "--std")
        return Reading(self.batch, mean, std)


@final
@dataclass(frozen=True)
class FittingOptions:
    """How coarse networks are fitted to data."""

    agreement: Annotated[
        float, typer.Option(help="Share of held-out answers that have to be the serial network's.")
    ] = 0.995
    above: Annotated[
        str, typer.Option(help=f"What a doubtful answer leads to: {', '.join(ABOVE)}.")
    ] = Fitting.above
    epochs: Annotated[int, typer.Option(help="Passes over the data in each round of fitting.")] = (
        Fitting.epochs
    )
    rate: Annotated[float, typer.Option(help="Largest learning rate of fitting.")] = Fitting.rate
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="Write the best network even if it agrees less often, or is slower."
        ),
    ] = False
    seed: Annotated[int, typer.Option(help="Of fitting.")] = Fitting.seed
    minutes: Annotated[float, typer.Option(help="That it may take, with compiling.")] = 5.0
    confidence: Annotated[
        float, typer.Option(help="How sure the agreement has to be; 0.5 leaves no margin.")
    ] = Fitting.confidence

    def fitting(self, batch: int) -> Fitting:
        """Options of a calibration with batches of so many samples."""
        return Fitting(**vars(self), batch=batch)


@final
@dataclass(frozen=True)
class RankOptions:
    """On how many processes a command runs; a ``worker`` is one of them."""

    ranks: Annotated[int, typer.Option(help="Processes under mpiexec, one thread each.")] = 1
    worker: Worker = ""

    def start(self, context: typer.Context) -> None:
        """Run the command on ranks, where several are asked for, and not further here.

        Raises:
            Exit: the ranks have ended.
            RankError: they cannot be started.

        """
        if self.ranks != 1 and not self.worker:
            raise typer.Exit(launch(context.obj, self.ranks))

    @property
    def comm(self) -> Any:
        """The communicator of all ranks; ``None`` in one process."""
        return world() if self.worker else None
