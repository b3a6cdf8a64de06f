"""Options: what the texts given on a command line mean."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from typer import Context

from pararealize.coarse.registry import heeding
from pararealize.compiler import pararealize
from pararealize.errors import MethodError, SlowerThanSerialWarning
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.network import ParallelNetwork

#: Options of coarse networks, which some kinds do not heed.
HEEDED = ("coarse_depth", "coarse_budget", "coarse_rank")


@dataclass(frozen=True)
class Cutting:
    """Where a network is cut, as the command line says it."""

    n: str = "auto"
    blocks: str = ""
    cut: Sequence[str] = ()

    def compile(
        self,
        model: nn.Module,
        method: Method,
        example: tuple[Tensor, ...] | None,
        comm: Any = None,
    ) -> ParallelNetwork:
        """The network; whether it pays is left to what is printed of it."""
        count: Any = int(self.n) if self.n.lstrip("-").isdigit() else self.n
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowerThanSerialWarning)
            return pararealize(
                model,
                count,
                method=method,
                example_inputs=example,
                interfaces=list(self.cut) or None,
                blocks=self.blocks or None,
                comm=comm,
            )


def refuse(context: Context, names: Sequence[str], why: str) -> None:
    """Refuse options of a command that would change nothing.

    Raises:
        MethodError: one of ``names`` was given.

    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise MethodError(f"--{name.replace('_', '-')} changes nothing: {why}.")


def parareal_of(
    coarse: str,
    correction: str,
    iterations: int,
    guess: str,
    depth: str,
    budget: float,
    rank: float,
    tolerance: float | None = None,
) -> Parareal:
    """Parareal as the command line says it; ``depth`` is one number, or one a subnetwork."""
    blocks = depths(integers(depth, "--coarse-depth"))
    return Parareal(
        *(coarse, correction, iterations, guess, blocks, budget),
        tolerance=tolerance,
        coarse_rank=rank,
    )


def method_of(mgrit: str, otherwise: Parareal) -> Method:
    """MGRIT with the options that are given for it, or else parareal."""
    if not mgrit:
        return otherwise
    known = [field.name for field in fields(MGRIT)]
    options = dict(part.partition("=")[::2] for part in re.split(r",(?![^(]*\))", mgrit))
    unknown = [name for name in options if name not in known]
    if unknown:
        raise MethodError(f"--mgrit {mgrit!r}: {unknown[0]!r} is none of {', '.join(known)}.")
    values: dict[str, Any] = {name: _literal(text) for name, text in options.items()}
    return MGRIT(**values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def example_of(shape: str) -> tuple[Tensor, ...] | None:
    """An input of a shape such as 2,3,224,224; ``None`` where it is not given."""
    return (torch.zeros(integers(shape, "--shape")),) if shape else None


def integers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers with commas between them.

    Raises:
        MethodError: they are none.

    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise MethodError(f"{option} {text!r}: expected integers such as 2,3,6.") from error


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        MethodError: they are none.

    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise MethodError(f"{option} {text!r}: expected numbers such as 0.5,0.5,0.5.") from error


def depths(values: Sequence[int]) -> int | tuple[int, ...]:
    """``coarse_depth``: one number for all subnetworks, or several, one for each."""
    return tuple(values) if len(values) > 1 else values[0]


def check_kinds(context: Context, coarse: str) -> None:
    """Refuse options of coarse networks that a kind does not heed.

    Raises:
        MethodError: one was given.

    """
    for name in HEEDED:
        kinds = heeding(name)
        if coarse not in kinds:
            named = " or ".join(map(repr, kinds))
            refuse(context, (name,), f"it is for --coarse {named}, and this is {coarse!r}")
