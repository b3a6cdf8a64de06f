"""Functions of autograd with a backward of their own, kept whole by a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final
from unittest import mock

import torch
from torch import fx
from torch._functorch import utils

from pararealize.errors import TraceError

#: How torch applies such a function.
APPLY: Any = torch.autograd.Function.__dict__["apply"]
#: ``record(function, args, kwargs)``: what is made of a call.
Record = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@final
@dataclass(frozen=True)
class Applied:
    """``kind.apply``; a trace that looked into its forward would lose its backward.

    Attributes:
        kind: the subclass of ``torch.autograd.Function``.

    """

    kind: type[torch.autograd.Function]

    @property
    def __name__(self) -> str:
        """What nodes of a graph are named by."""
        return self.kind.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's outputs, connected by its own backward."""
        return APPLY.__func__(self.kind, *args, **kwargs)


@contextmanager
def applied_whole(record: Record) -> Iterator[None]:
    """Hand every call of such a function to ``record`` for a while."""

    def apply(kind: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        return record(Applied(kind), args, kwargs)

    def taken(args: tuple[Any, ...]) -> Any:
        if any(isinstance(value, fx.Proxy) for value in args):
            raise TraceError(
                "it calls a function with a backward of its own by a name that apply was given "
                "before (write Kind.apply(x) where it is called)"
            )
        return unwrapped(args)

    unwrapped = utils.unwrap_dead_wrappers  # which apply begins with, whatever it is called by
    with (
        mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)),
        mock.patch.object(utils, "unwrap_dead_wrappers", taken),
    ):
        yield
