"""Options: what the texts given on a command line mean, and groups that commands share."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor

from pararealize.coarse.registry import heeding
from pararealize.errors import MethodError
from pararealize.ir.methods import MGRIT, Method, Parareal
from pararealize.ir.options import MOST

if TYPE_CHECKING:
    from typer import Context

#: Most numbers in an input that is made up.
MOST_NUMBERS = 2**31

#: Options of coarse networks, which some kinds do not heed.
HEEDED = ("coarse_depth", "coarse_budget", "coarse_rank")


def refuse(context: Context, names: Sequence[str], why: str) -> None:
    """Refuse options of a command that would change nothing.

    Raises:
        MethodError: one of ``names`` was given.

    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise MethodError(f"--{name.replace('_', '-')} changes nothing: {why}.")


def method_of(mgrit: str, otherwise: Parareal) -> Method:
    """MGRIT with the options that are given for it, or else parareal."""
    if not mgrit:
        return otherwise
    known = [field.name for field in fields(MGRIT)]
    options = dict(part.partition("=")[::2] for part in re.split(r",(?![^(]*\))", mgrit))
    unknown = [name for name in options if name not in known]
    if unknown:
        raise MethodError(
            f"--mgrit {mgrit!r:.80}: {unknown[0]!r:.40} is none of {', '.join(known)}."
        )
    values: dict[str, Any] = {name: _literal(text) for name, text in options.items()}
    return MGRIT(**values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # what is deeply nested
        return text


def example_of(shape: str) -> tuple[Tensor, ...] | None:
    """An input of a shape such as 2,3,224,224; ``None`` where it is not given."""
    return (torch.zeros(sizes(shape, "--shape")),) if shape else None


def sizes(text: str, option: str) -> tuple[int, ...]:
    """Sizes of a tensor's axes with commas between them.

    Raises:
        MethodError: they are none, or those of no tensor that fits in a memory.

    """
    found = integers(text, option, 1)
    if math.prod(found) > MOST_NUMBERS:
        raise MethodError(f"{option} {text!r:.80}: {MOST_NUMBERS:,} numbers are the most.")
    return found


def integers(text: str, option: str, least: int | None = None) -> tuple[int, ...]:
    """Whole numbers with commas between them, of ``least`` or more.

    Raises:
        MethodError: they are none.

    """
    found = _split(text, option, int, "integers such as 2,3,6")
    for number in found:
        check_range(option, number, least)
    return found


def check_range(option: str, number: float, least: float | None, most: float = MOST) -> None:
    """Raise where a number is not in the range of an option, or is none.

    Raises:
        MethodError: says the range.

    """
    if not (-MOST if least is None else least) <= number <= most:
        wanted = f"{least} or more" if most == MOST else f"{least} to {most}"
        raise MethodError(f"{option} {number!r:.40}: expected {wanted}.")


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        MethodError: they are none.

    """
    return _split(text, option, float, "numbers such as 0.5,0.5,0.5") if text else ()


def _split(text: str, option: str, kind: Callable[[str], Any], expected: str) -> tuple[Any, ...]:
    try:
        return tuple(map(kind, text.split(",")))
    except ValueError as error:
        raise MethodError(f"{option} {text!r:.80}: expected {expected}.") from error


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


def names_of(*groups: type) -> tuple[str, ...]:
    """The names of all options of these groups."""
    return tuple(field.name for group in groups for field in fields(group))


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of dataclasses that it takes as options of their own.

    Typer reads options off a signature, and this one has a parameter for every field.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {k: v for k, v in hints.items() if is_dataclass(v)}
    own = inspect.signature(command).parameters.values()
    flat = [_keyword(p.name, hints[p.name], p.default) for p in own if p.name not in groups]
    for group in groups.values():
        of_fields = get_type_hints(group, include_extras=True)
        flat += [
            _keyword(field.name, of_fields[field.name], field.default) for field in fields(group)
        ]

    def call(**given: Any) -> None:
        made = {
            name: group(**{option: given.pop(option) for option in names_of(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    call.__name__, call.__doc__ = command.__name__, command.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return call


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
