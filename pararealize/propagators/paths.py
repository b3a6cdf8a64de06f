"""Paths: modules and tensors of a network by the names that operations call them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from pararealize.ir.program import Segment
from pararealize.propagators.block_list import OutsideBlocks


def modules_of(segment: Segment) -> tuple[str, ...]:
    """Paths of the modules that the segment calls."""
    return tuple(dict.fromkeys(o.target for o in segment.operations if o.kind == "module"))


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at a path, as ``root.get_submodule`` finds it in ten times as long.

    Raises:
        AttributeError: there is none.

    """
    module: nn.Module | None = root
    for name in path.split(".") if path else ():
        module = None if module is None else module._modules.get(name)
    return root.get_submodule(path) if module is None else module


def parts_of(module: nn.Module) -> Iterable[nn.Module]:
    """The module and all inside it; most that are called have none."""
    return module.modules() if module._modules else (module,)


def made_submodule(tree: nn.Module, path: str) -> nn.Module:
    """The module at a path of a tree; empty ones are made on the way where there is none."""
    for name in filter(None, path.split(".")):
        tree._modules.setdefault(name, nn.Module())
        tree = tree.get_submodule(name)
    return tree


def around_of(segment: Segment, root: nn.Module) -> tuple[str, ...]:
    """Paths of modules and tensors that the segment's functions of the whole network read."""
    functions = (o.target for o in segment.operations if isinstance(o.target, OutsideBlocks))
    return tuple(dict.fromkeys(path for f in functions for path in f.outside(root)))
