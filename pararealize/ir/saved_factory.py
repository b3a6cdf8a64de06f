"""Saved factory: what stands in a saved plan for a user's own coarse function or kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from pararealize.errors import MethodError
from pararealize.ir.methods import Method
from pararealize.ir.options import CoarseFactory

#: What stands before the name of a user's own function in place of a kind.
CALLABLE = "callable:"


@dataclass(frozen=True)
class SavedFactory:
    """Stands for a user's coarse function or kind, of which a saved plan knows ``values`` alone."""

    values: Any

    def __call__(self, *_: Any) -> NoReturn:
        """Raise the error that asks for the function or kind, as there is none to call.

        Raises:
            MethodError: always; names what was used.

        """
        what = "function" if isinstance(self.values, str) else "kind"
        name = self.values if what == "function" else f"kind:{self.values['kind']}"
        raise MethodError(
            f"this network was built with {name!r}: pass the same {what} "
            f"as load(path, model, coarse={what})."
        )


def with_factory(method: Method, coarse: CoarseFactory | None) -> Method:
    """The options with the user's coarse function, where one was saved.

    Raises:
        MethodError: one was, and none is given.

    """
    if not isinstance(method.coarse, SavedFactory):
        return method
    if coarse is None:
        method.coarse()
    return type(method)(**{**vars(method), "coarse": coarse})
