"""Hooks: which forward hooks of a network reach what the network itself may read."""

from __future__ import annotations

from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

from pararealize.runtime.effects.containers import OWN

#: How deep functions in the cells of functions are followed.
DEPTH = 8


def held(root: nn.Module) -> frozenset[int]:
    """Identities of a tree's modules and of what they hold in attributes."""
    values = (v for m in root.modules() for name, v in m.__dict__.items() if name not in OWN)
    return frozenset(map(id, (*root.modules(), *values)))


def hooks_are_heard(module: nn.Module, known: frozenset[int]) -> bool:
    """Whether a module's forward hooks reach what others in the tree may read.

    Hooks that only tell somebody outside, as for a log, do not run while a network is compiled.
    """
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(reaches(hook, known) for hook in hooks)


def reaches(value: Any, known: frozenset[int], depth: int = DEPTH) -> bool:
    """Whether a function, through its cells or the object that it is bound to, meets the known."""
    if id(value) in known:
        return True
    if isinstance(value, MethodType):
        return reaches(value.__self__, known, depth)
    cells = (value.__closure__ or ()) if isinstance(value, FunctionType) and depth else ()
    return any(reaches(_content(cell), known, depth - 1) for cell in cells)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None
