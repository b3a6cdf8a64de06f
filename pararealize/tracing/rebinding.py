"""Rebinding: functions that a copied network holds, made to lead to the copy, not to the original.

``copy.deepcopy`` copies no function: a patched ``forward`` or a hook goes on using the modules, the
weights and the containers that it was written with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from pararealize.errors import TraceError

#: What holds other functions or modules, and can be made again with others.
KINDS = (FunctionType, MethodType, partial)


def rebind(original: nn.Module, twin: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let patched methods and hooks of ``twin`` use its own parts; ``memo`` has copies by identity.

    Raises:
        TraceError: one leads to a part of the original of which no copy is known.

    """
    owners = [module for module in twin.modules() if _functions(module)]
    if not owners:
        return
    binder = _Binder(original, memo)
    for module in owners:
        for holder, name, function in _functions(module):
            holder[name] = binder(function)


def _functions(module: nn.Module) -> list[tuple[dict[Any, Any], Any, Any]]:
    """Functions among a module's attributes and hooks, and where they stand."""
    found = []
    for name, value in module.__dict__.items():
        if isinstance(value, KINDS):
            found.append((module.__dict__, name, value))
        elif name.endswith("_hooks") and value and isinstance(value, dict):
            found += [(value, key, hook) for key, hook in value.items() if isinstance(hook, KINDS)]
    return found


class _Binder:
    """Makes functions again with copies in place of what they lead to."""

    def __init__(self, original: nn.Module, memo: Mapping[int, Any]) -> None:
        self._memo = memo
        self._parts = {id(module): name for name, module in original.named_modules()}
        self._known: dict[int, Any] = {}
        self._kept: list[Any] = []  # identities stay theirs

    def __call__(self, value: Any) -> Any:
        """The value, or what stands for it in the copy."""
        if id(value) in self._known:
            return self._known[id(value)]
        if id(value) in self._memo:
            return self._memo[id(value)]
        if id(value) in self._parts:
            raise TraceError(
                f"a function that the network holds uses {self._parts[id(value)] or 'the network'}"
                f" = {type(value).__name__}, of which a copy would go on using the original: write "
                "it as a method, which is given its module as self."
            )
        if not isinstance(value, KINDS):
            return value
        self._kept.append(value)
        self._known[id(value)] = value  # a function may lead to itself
        made = self._made(value)
        self._known[id(value)] = made
        return made

    def _made(self, value: Any) -> Any:
        if isinstance(value, MethodType):
            owner, function = self(value.__self__), self(value.__func__)
            same = owner is value.__self__ and function is value.__func__
            return value if same else MethodType(function, owner)
        if isinstance(value, partial):
            args, kwargs = (
                tuple(map(self, value.args)),
                {k: self(v) for k, v in value.keywords.items()},
            )
            return partial(self(value.func), *args, **kwargs)
        return self._function(value)

    def _function(self, function: FunctionType) -> FunctionType:
        cells = tuple(map(self._cell, function.__closure__ or ()))
        defaults = tuple(map(self, function.__defaults__ or ())) or None
        named = {k: self(v) for k, v in (function.__kwdefaults__ or {}).items()} or None
        read = {
            n: function.__globals__[n]
            for n in _names(function.__code__)
            if n in function.__globals__
        }
        changed = {name: self(v) for name, v in read.items() if self(v) is not v}
        before = (function.__closure__ or (), function.__defaults__, function.__kwdefaults__)
        same = all(map(_same, before, (cells, defaults, named)))
        if same and not changed:
            return function
        scope = _Globals(function.__globals__, changed) if changed else function.__globals__
        made = FunctionType(function.__code__, scope, function.__name__, defaults, cells)
        made.__kwdefaults__, made.__qualname__ = named, function.__qualname__
        made.__module__, made.__doc__ = function.__module__, function.__doc__
        made.__dict__.update({key: self(value) for key, value in function.__dict__.items()})
        return made

    def _cell(self, cell: CellType) -> CellType:
        """A cell with what stands for its content; functions that share one go on sharing it."""
        if id(cell) in self._known:
            found: CellType = self._known[id(cell)]
            return found
        self._kept.append(cell)
        try:
            content = cell.cell_contents
        except ValueError:  # it is empty yet
            return cell
        self._known[id(cell)] = cell
        made = self(content)
        self._known[id(cell)] = cell if made is content else CellType(made)
        return self._known[id(cell)]  # type: ignore[no-any-return]


class _Globals(dict[str, Any]):
    """A module's global names, with others in place of some; what changes there is seen here."""

    def __init__(self, names: dict[str, Any], changed: dict[str, Any]) -> None:
        super().__init__(
            changed, __builtins__=names["__builtins__"], __name__=names.get("__name__")
        )
        self._names = names

    def __missing__(self, name: str) -> Any:
        return self._names[name]


def _same(one: Any, other: Any) -> bool:
    """Whether two tuples, dictionaries or ``None`` hold the same objects."""
    if not one or not other:
        return not one and not other
    mine, theirs = (list(v.values() if isinstance(v, dict) else v) for v in (one, other))
    return all(a is b for a, b in zip(mine, theirs, strict=True))


def _names(code: CodeType) -> Iterator[str]:
    """Global names that code and the functions in it read."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
