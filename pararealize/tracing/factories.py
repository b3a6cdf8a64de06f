"""Factories: torch functions that make tensors of sizes, recorded where a size is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

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


@contextmanager
def factories_recorded(record: Record) -> Iterator[None]:
    """Hand every call of such a function to ``record`` for a while."""

    def recording(function: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            return record(function, args, kwargs)

        return make

    with torch.device("meta"):  # notes, once and for all, what torch calls these functions
        torch.empty(0)
    with ExitStack() as stack:
        for name in NAMES:
            made = recording(getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, made))
        yield
