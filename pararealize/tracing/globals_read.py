"""Globals read: values outside a network that decided, while it was traced, what its program is."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import nn

from pararealize.ir.reading import GLOBAL, Read
from pararealize.runtime.effects.functions import functions_of
from pararealize.tracing.reading import PLAIN, snapshot

#: Most items of a table that is compared in every call.
MOST = 32


def globals_read(root: nn.Module, entered: Iterable[str]) -> tuple[Read, ...]:
    """The plain globals that code of the modules at these paths names, with their values now.

    Of modules that can be imported, which says where a global is found again.
    """
    found: dict[str, Read] = {}
    for path in entered:
        for function in functions_of(root.get_submodule(path)):
            for name, value in _named(function.__code__, function.__globals__):
                found.setdefault(name, Read(path, name, snapshot(value)))
    return tuple(found.values())


def _named(code: CodeType, scope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    home = sys.modules.get(str(scope.get("__name__")))
    if home is None or vars(home) is not scope:
        return
    for name in _loaded(code):
        if name in scope and _is_plain(scope[name]):
            yield f"{home.__name__}{GLOBAL}{name}", scope[name]


@lru_cache(maxsize=4096)
def _loaded(code: CodeType) -> tuple[str, ...]:
    """Names of globals in a function's code, and in the functions inside it."""
    own = (i.argval for i in dis.get_instructions(code) if i.opname in {"LOAD_GLOBAL", "LOAD_NAME"})
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return tuple(dict.fromkeys((*own, *(name for each in inner for name in _loaded(each)))))


def _is_plain(value: Any) -> bool:
    """Numbers, strings and flags, and short tables of them."""
    if type(value) in {list, tuple, dict}:
        items = value.values() if isinstance(value, dict) else value
        return len(value) <= MOST and all(isinstance(item, PLAIN) for item in items)
    return isinstance(value, PLAIN)
