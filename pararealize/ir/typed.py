"""Typed: values read from JSON, held against the fields of the dataclass that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

#: Larger integers are no count of anything.
LARGEST = 2**63


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Whether every value that is given has the type of its field.

    Raises:
        TypeError: names the first that has not.

    """
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind) if field.name in values):
        if not _fits(values[name], hints[name]):
            raise TypeError(f"{name}, found {values[name]!r:.40}")


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in {Union, UnionType}:
        return any(_fits(value, part) for part in parts)
    if kind is tuple:
        inner = parts[:1] * len(value) if isinstance(value, tuple) and ... in parts else parts
        return isinstance(value, tuple) and all(map(_fits, value, inner))
    if kind in {dict, Mapping}:
        return isinstance(value, Mapping) and all(_fits(v, parts[1]) for v in value.values())
    if kind in {int, float} and isinstance(value, (int, float)):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return whole or (kind is float and isinstance(value, float))
    return isinstance(value, kind)
