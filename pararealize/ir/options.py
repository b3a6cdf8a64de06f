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


#: Larger integers are no count of anything, and no seed.
MOST = 2**63 - 1


def check_count(method: Any, name: str, least: int, most: int = MOST) -> None:
    """Raise where an option is no whole number, too small or too large.

    Raises:
        MethodError: says what was found.

    """
    value = getattr(method, name)
    if not is_count(value, least, most):
        wanted = f"of {least} or more" if most == MOST else f"from {least} to {most}"
        raise MethodError(
            f"{type(method).__name__}({name}={shown(value)}): expected an integer {wanted}."
        )


def is_count(value: Any, least: int, most: int = MOST) -> bool:
    """Whether a value is a whole number, no flag, and neither too small nor too large."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a number and no flag, and no integer larger than any that is counted."""
    return isinstance(value, float) or (is_count(value, -MOST))


def shown(value: Any) -> str:
    """A value in an error, however long it is; Python writes no numbers of 5,000 digits."""
    large = isinstance(value, int) and abs(value) > MOST
    return "an integer of more than 63 bits" if large else f"{value!r:.80}"
