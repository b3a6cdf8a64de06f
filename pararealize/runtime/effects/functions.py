"""Functions: the Python code that may run when a module is called.

The forward and hooks, and whatever these name that has code: methods of the class and of those that
it inherits from, helper functions and classes of any file, attributes that can be called.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, final

import torch
from torch import nn

#: Packages whose functions know nothing of a user's.
FOREIGN = sys.stdlib_module_names | {"torch", "numpy", "einops", "pararealize"}
#: Methods that run without being named, of objects and where one is made.
IMPLICIT = frozenset(
    (
        *("__call__", "__enter__", "__exit__", "__iter__", "__getitem__", "__len__"),
        *("__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__matmul__"),
    )
)
MAKING = frozenset(("__new__", "__init__", "__post_init__"))
#: Kinds of attributes that are no code and draw nothing; a module has two dozen of them.
PLAIN = frozenset((dict, OrderedDict, set, list, tuple, bool, int, float, str, type(None)))


@final
@dataclass(frozen=True)
class _Object:
    """Any object of a class, which says what code it runs."""

    kind: type


def functions_of(module: nn.Module) -> Iterable[FunctionType]:
    """Python functions that may run when a module of the user's own is called, each once.

    A name may stand for several: all that is called so is taken.
    """
    if isinstance(module, torch.jit.ScriptModule):  # whose code is no Python any more
        return ()
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    own = {k: v for k, v in module.__dict__.items() if type(v) not in PLAIN and _may_run(v)}
    kind: Any = type(module)
    codes = tuple((name, _lasting(value), callable(value)) for name, value in own.items())
    if not hooks and "forward" not in own and all(code for _, code, _ in codes):
        return _of_class(kind, kind.forward, codes)
    roots = (module.forward, *hooks, *filter(callable, own.values()))
    return _reached([f for v in roots for f in _code_of(v, frozenset())], kind, own)


def _lasting(value: Any) -> Any:
    """What of an attribute says which code it runs, and lives as long as the program does.

    The function, or the class of an object; ``None`` where a function has taken values along.
    """
    function = _inner(value)
    if function is None:
        return value if isinstance(value, type) else _Object(type(value))
    return None if function.__closure__ else function


@lru_cache(maxsize=512)
def _of_class(
    kind: Any, forward: Any, own: tuple[tuple[str, Any, bool], ...]
) -> tuple[FunctionType, ...]:
    """Functions of all modules of a class with attributes that have this code, called or not."""
    roots = (forward, *(code for _, code, is_called in own if is_called))
    codes = {name: code for name, code, _ in own}
    return _reached([f for v in roots for f in _code_of(v, frozenset())], kind, codes)


def _reached(
    left: list[FunctionType], kind: type[nn.Module], own: Mapping[str, Any]
) -> tuple[FunctionType, ...]:
    """Functions, and what they call by names of globals, of methods and of attributes."""
    homes = (own, *map(vars, kind.__mro__[: kind.__mro__.index(nn.Module)]))
    found: dict[FunctionType, None] = {}
    while left:
        function = left.pop()
        if function not in found:
            found[function] = None
            left += _named_by(function, homes)
    return tuple(found)


def _may_run(value: Any) -> bool:
    """Whether an attribute is code of a user's, or an object that has some."""
    return _inner(value) is not None or _is_users(type(value))


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> tuple[str, ...]:
    """Names of globals and of attributes in a function's code, and in the functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return (*code.co_names, *(name for each in inner for name in names_in(each)))


def enclosed(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function has taken along from where it was made, by name."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not bound yet
            continue


def _named_by(function: FunctionType, homes: Iterable[Mapping[str, Any]]) -> Iterator[FunctionType]:
    """Users' functions that the code of another one names."""
    names, scope = frozenset(names_in(function.__code__)), function.__globals__
    outer = [scope[name] for name in names if name in scope]
    libraries = [vars(value) for value in outer if isinstance(value, ModuleType)]
    known = (*homes, *filter(_is_users_scope, libraries))
    values = [home[name] for home in known for name in names if name in home]
    kept = (value for _, value in enclosed(function))
    for value in (*values, *outer, *kept):
        yield from (f for f in _code_of(value, names) if _is_users(f))


def _code_of(value: Any, names: Set[str]) -> Iterator[FunctionType]:
    """The Python functions of a value; of objects and classes, methods that run by these names."""
    if (function := _inner(value)) is not None:
        yield from _unwrapped(function)
    elif not isinstance(value, (nn.Module, ModuleType)):
        kind, run = (value, MAKING) if isinstance(value, type) else (_kind(value), IMPLICIT)
        if _is_users(kind) and not issubclass(kind, nn.Module):
            methods = {name: m for k in reversed(kind.__mro__[:-1]) for name, m in vars(k).items()}
            for name in methods.keys() & (names | run | IMPLICIT):
                yield from _unwrapped(_inner(methods[name]))


def _kind(value: Any) -> type:
    return value.kind if isinstance(value, _Object) else type(value)


def _inner(value: Any) -> Any:
    """The function in a method, a property or a partial call; None of anything else."""
    while not isinstance(value, FunctionType):
        if isinstance(value, (MethodType, staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, (partial, cached_property)):
            value = value.func
        else:
            return None
    return value


def _unwrapped(function: Any) -> Iterator[FunctionType]:
    """A function, and those that it wraps."""
    while isinstance(function, FunctionType):
        yield function
        function = _inner(function.__dict__.get("__wrapped__"))


def _is_users(value: Any) -> bool:
    """Whether a function or class is defined in none of the packages that are known."""
    return str(value.__module__ or "").partition(".")[0] not in FOREIGN


def _is_users_scope(scope: dict[str, Any]) -> bool:
    return str(scope.get("__name__", "")).partition(".")[0] not in FOREIGN
