"""Options: what dataclasses of options have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from torch import nn

from pararealize.errors import MethodError

#: A user's own coarse propagator: (fine, interface_in, interface_out) -> nn.Module.
CoarseFactory = Callable[..., nn.Module]


class DescribedKind(Protocol):
    """A kind of coarse propagator with its parameters, as ``coarse.kind.CoarseKind`` is."""

    name: ClassVar[str]

    @property
    def options(self) -> Mapping[str, Any]:
        """Its parameters by name."""


def check_choices(method: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raise where an option has none of the values that it may have.

    Raises:
        MethodError: says which there are.

    """
    kind = type(method).__name__
    for name, allowed in choices.items():
        value = getattr(method, name)
        if value not in allowed and not (name == "coarse" and callable(value)):
            extra = " or a callable" if name == "coarse" else ""
            raise MethodError(
                f"{kind}({name}={value!r}): expected one of {', '.join(map(repr, allowed))}"
                f"{extra}, for example {kind}({name}={allowed[0]!r})."
            )


def check_count(method: Any, name: str, least: int) -> None:
    """Raise where an option is no whole number, or too small.

    Raises:
        MethodError: says what was found.

    """
    value = getattr(method, name)
    if not is_count(value, least):
        raise MethodError(
            f"{type(method).__name__}({name}={value!r}): expected an integer of {least} or more."
        )


def is_count(value: Any, least: int) -> bool:
    """Whether a value is a whole number, no flag, and large enough."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether a value is a number and no flag."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
