"""Arguments: what a network is called with, as its inputs by name."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter, Signature
from typing import Any, final

from pararealize.ir.program import Operation

#: How torch.fx marks an argument that takes any number of values.
STARS = {"*": Parameter.VAR_POSITIONAL, "**": Parameter.VAR_KEYWORD}


@final
class Arguments:
    """Binds the arguments of a call, as Python binds those of the network's ``forward``.

    Args:
        operations: the network's inputs, in order: their argument's name and its default.

    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._names = {_argument(o.target)[0]: o.name for o in operations}
        self._signature = Signature([_parameter(o) for o in operations])

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The network's inputs by the names that propagators know them by.

        Raises:
            TypeError: an argument is missing, or there are too many.

        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return {self._names[name]: value for name, value in bound.arguments.items()}


def _argument(target: str) -> tuple[str, Any]:
    """The name of an argument without its stars, and what kind of parameter they make it."""
    stars = target[: len(target) - len(target.lstrip("*"))]
    return target.lstrip("*"), STARS.get(stars, Parameter.POSITIONAL_OR_KEYWORD)


def _parameter(operation: Operation) -> Parameter:
    name, kind = _argument(operation.target)
    default = operation.args[0] if operation.args else Parameter.empty
    return Parameter(name, kind, default=default)
