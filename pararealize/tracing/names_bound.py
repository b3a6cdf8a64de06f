"""Names bound anew in a scope for a while; whatever else is bound there meanwhile stays.

``mock.patch.dict`` puts back the whole scope, which undoes what forward code does to its globals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def names_bound(scope: dict[str, Any], values: Mapping[str, Any]) -> Iterator[None]:
    """Let names stand for other values inside the block."""
    before = {name: scope[name] for name in values if name in scope}
    scope.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            scope.pop(name, None)
        scope.update(before)
