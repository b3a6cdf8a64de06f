"""Closures: functions that a module keeps, as its hooks, made to see the copy of a tree.

``copy.deepcopy`` keeps functions as they are: a hook that fills a dictionary of the original, and a
``forward`` patched by one that calls the original's, would do so from the copy as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

from pararealize.runtime.effects.containers import OWN

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
#: How deep functions in the cells of functions are followed.
DEPTH = 8


def rebind(copied: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let the functions in a copied tree see the copies in ``memo`` instead of the originals."""
    for part in copied.modules():
        for name, value in part.__dict__.items():
            if isinstance(value, FunctionType):
                part.__dict__[name] = rebound(value, memo)
        for name in HOOKS:
            registry = part.__dict__.get(name) or {}
            for key, hook in registry.items():
                registry[key] = rebound(hook, memo)


def rebound(value: Any, memo: Mapping[int, Any], depth: int = DEPTH) -> Any:
    """The copy that stands for a value, or a function with such in its cells; else the value."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, MethodType):
        owner = rebound(value.__self__, memo, depth - 1) if depth else value.__self__
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if not isinstance(value, FunctionType) or not value.__closure__ or not depth:
        return value
    cells = tuple(_cell(cell, memo, depth - 1) for cell in value.__closure__)
    if all(new is old for new, old in zip(cells, value.__closure__, strict=True)):
        return value
    made = FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
    )
    made.__kwdefaults__, made.__qualname__ = value.__kwdefaults__, value.__qualname__
    made.__dict__.update(value.__dict__)
    return made


def _cell(cell: CellType, memo: Mapping[int, Any], depth: int) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # not bound yet
        return cell
    copied = rebound(content, memo, depth)
    return cell if copied is content else CellType(copied)


def held(root: nn.Module) -> frozenset[int]:
    """Identities of a tree's modules and of what they hold in attributes."""
    values = (v for m in root.modules() for name, v in m.__dict__.items() if name not in OWN)
    return frozenset(map(id, (*root.modules(), *values)))


def hooks_are_heard(module: nn.Module, known: frozenset[int]) -> bool:
    """Whether a module's forward hooks reach what others in the tree may read.

    Hooks that only tell somebody outside, as for a log, do not run while a network is compiled.
    """
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(_reaches(hook, known, DEPTH) for hook in hooks)


def _reaches(value: Any, known: frozenset[int], depth: int) -> bool:
    if id(value) in known:
        return True
    if isinstance(value, MethodType):
        return _reaches(value.__self__, known, depth)
    cells = (value.__closure__ or ()) if isinstance(value, FunctionType) and depth else ()
    return any(_reaches(cell.cell_contents, known, depth - 1) for cell in cells)
