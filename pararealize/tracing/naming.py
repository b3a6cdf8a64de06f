"""Naming: one name for what torch calls differently in a trace and in a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pararealize.tracing.draft import Entered, Event, Left, Recorded

#: Values that are compared by ``==``.
ATOMS = (
    *(bool, int, float, complex, str, bytes, type(None), slice, type(...)),
    *(torch.dtype, torch.device, torch.memory_format, torch.layout),
)
SYNONYMS = {
    **{"div": "truediv", "rdiv": "rtruediv", "idiv": "itruediv", "true_divide": "truediv"},
    **{"add_": "iadd", "sub_": "isub", "mul_": "imul", "div_": "itruediv"},
    **{"remainder": "mod", "positive": "pos", "bitwise_not": "invert", "not": "invert"},
}
COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor", "eq", "ne"})
#: Operators whose operands come the other way round: ``3 - x``.
REFLECTED = frozenset(
    f"__r{name}__"
    for name in (
        *("sub", "div", "truediv", "floordiv", "mod", "pow", "matmul"),
        *("lshift", "rshift", "and", "or", "xor"),
    )
)


def common_name(name: str) -> str:
    """``add`` for ``add``, ``__add__`` and ``__radd__``, ``truediv`` for ``div``."""
    short = name.partition(".")[0]
    if name in REFLECTED:
        short = f"__{name[3:]}"
    if short.startswith("__") or short in {"and_", "or_", "not_"}:
        short = short.strip("_")
    return SYNONYMS.get(short, short)


def is_same_function(op: str, target: Any, function: Any) -> bool:
    """Whether a recorded function or method is the one that is called."""
    if op not in {"call_function", "call_method"}:
        return False
    recorded = target if op == "call_method" else getattr(target, "__name__", "")
    called = getattr(function, "__name__", "")
    return target is function or (bool(called) and common_name(recorded) == common_name(called))


def is_commutative(function: Any) -> bool:
    """Whether two operands may come in any order."""
    return common_name(getattr(function, "__name__", "")) in COMMUTATIVE


def operands(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments in the order in which a trace writes them."""
    reflected = getattr(function, "__name__", "") in REFLECTED
    return (args[::-1] if reflected else args), kwargs


def describe(event: Event | None) -> str:
    """What a trace did, for a reader."""
    match event:
        case None:
            return "had ended"
        case Entered(path):
            return f"called {path}"
        case Left(path):
            return f"ended {path}"
        case Recorded(op="output"):
            return "ended"
    return f"called {getattr(event.target, '__name__', event.target)}"


def arguments(model: nn.Module, given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward's arguments, of their names: those before a ``*``, and the others."""
    bound = inspect.signature(model.forward).bind_partial()
    for name, parameter in bound.signature.parameters.items():
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        if stars + name in given:
            bound.arguments[name] = given[stars + name]
    return bound.args, bound.kwargs


def with_defaults(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The arguments of a call with the defaults of those that were not passed."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, kwargs
    bound.apply_defaults()
    return tuple(bound.arguments.values())
