"""Instances: ``isinstance`` and ``len`` in forward code, as for what a traced value stands for.

A stand-in that called itself a tensor would be taken for one by torch's compiled code, which reads
its memory. So the name is bound anew where forward code looks it up, as ``torch.fx`` does with the
functions that it wraps; what asks elsewhere is found by a rehearsal.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn

from pararealize.runtime.effects.functions import functions_of
from pararealize.tracing.names_bound import names_bound


@contextmanager
def answered(
    root: nn.Module, kind_of: Callable[[Any], type | None], record: Callable[..., Any]
) -> Iterator[None]:
    """Let ``isinstance`` and ``torch.is_tensor`` ask ``kind_of`` about values that it knows.

    ``len`` of such a value, which Python wants to be a number at once, is handed to ``record``.
    """

    def length(value: Any) -> Any:
        return record(len, (value,), {}) if issubclass(type(value), fx.Proxy) else len(value)

    def is_instance(value: Any, kinds: Any) -> bool:
        kind = kind_of(value)
        return builtins.isinstance(value, kinds) if kind is None else issubclass(kind, kinds)

    def is_tensor(value: Any) -> bool:
        return is_instance(value, Tensor)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "is_tensor", is_tensor))
        for scope in scopes_of(root):
            names = {"isinstance": is_instance, "len": length}
            own = {name: function for name, function in names.items() if name not in scope}
            stack.enter_context(names_bound(scope, own))
        yield


def scopes_of(root: nn.Module) -> Iterator[dict[str, Any]]:
    """The globals of all code that runs in user's modules, whatever file it is in, each once."""
    seen: set[int] = set()
    for module in root.modules():
        if type(module).__module__.startswith("torch."):
            continue
        for function in functions_of(module):
            if id(function.__globals__) not in seen:
                seen.add(id(function.__globals__))
                yield function.__globals__
