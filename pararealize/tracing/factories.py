"""Factories: what makes tensors by sizes, or cuts tables to them, recorded where one is traced."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

#: ``record(function, args, kwargs)``: what is made of a call.
Record = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
#: torch calls no ``__torch_function__`` for whole numbers.
NAMES = (
    *("zeros", "ones", "empty", "full", "arange", "linspace", "eye", "range", "logspace"),
    *(
        "tensor",
        "as_tensor",
        "rand",
        "randn",
        "randint",
        "randperm",
        "tril_indices",
        "triu_indices",
    ),
)
#: Methods of tensors that are no traced values, as tables kept on a module, ``table[:length]``:
#: torch asks the sizes for their numbers, and calls nothing else.
METHODS = (
    *("expand", "narrow", "view", "reshape", "repeat", "tile", "broadcast_to", "unflatten"),
    *("roll", "select", "repeat_interleave", "split", "chunk"),
    *("new_zeros", "new_ones", "new_empty", "new_full"),
)
ITEM = "__getitem__"
#: The same as functions.
FUNCTIONS = (
    *("narrow", "reshape", "tile", "broadcast_to", "unflatten", "roll", "select"),
    *("repeat_interleave", "chunk"),
)


@contextmanager
def factories_recorded(record: Record, is_traced: Callable[[Any], bool]) -> Iterator[None]:
    """Hand every call of such a function or method to ``record`` for a while.

    What is called on a tensor that is no traced value is handed over where an argument
    ``is_traced``.
    """

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            return record(function, args, kwargs)

        return make

    def called(method: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], Tensor) and is_traced((args[1:], kwargs)):
                return record(function, args, kwargs)
            return method(*args, **kwargs)

        return call

    with torch.device("meta"):  # notes, once and for all, what torch calls these functions
        torch.empty(0)
    with ExitStack() as stack:
        for name in NAMES:
            made = recording(getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, made))
        for name in (*METHODS, ITEM):
            own = getattr(Tensor, name)
            found = called(own, operator.getitem if name == ITEM else own)
            stack.enter_context(mock.patch.object(Tensor, name, found))
        for name in FUNCTIONS:
            own = getattr(torch, name)
            stack.enter_context(mock.patch.object(torch, name, called(own, own)))
        yield
