"""Arguments: what a network is called with, as its inputs by name."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter, Signature
from typing import Any, final

from pararealize.ir.program import Operation

#: How torch.fx marks an argument that takes any number of values, and others.
KINDS = {
    "": Parameter.POSITIONAL_OR_KEYWORD,
    "*": Parameter.VAR_POSITIONAL,
    "**": Parameter.VAR_KEYWORD,
}


@final
class Arguments:
    """Binds the arguments of a call to the network's inputs, as Python binds ``forward``'s."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._names: dict[str, str] = {}
        parameters = []
        for operation in operations:
            name = operation.target.lstrip("*")
            kind = KINDS[operation.target.removesuffix(name)]
            default = operation.args[0] if operation.args else Parameter.empty
            parameters.append(Parameter(name, kind, default=default))
            self._names[name] = operation.name
        self._signature = Signature(parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The network's inputs by the names that propagators know them by.

        Raises:
            TypeError: an argument is missing, or there are too many.

        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return {self._names[name]: value for name, value in bound.arguments.items()}
