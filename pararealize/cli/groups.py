"""Groups: options that several commands share, as one frozen dataclass each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


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
