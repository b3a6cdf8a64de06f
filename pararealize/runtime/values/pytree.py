"""Pytrees: tensors in tuples, lists, dictionaries and dataclasses, and their leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten, treespec_leaf


@dataclass(frozen=True)
class Structure:
    """What holds the leaves: torch's structure, and at its leaves the dataclasses it stops at."""

    tree: TreeSpec
    records: tuple[Record | None, ...]

    @property
    def is_leaf(self) -> bool:
        """Whether there is nothing around the one leaf."""
        return bool(self.tree.is_leaf()) and self.records == (None,)

    @property
    def kind(self) -> type:
        """The type of the outermost container."""
        outer = self.records[0] if self.tree.is_leaf() else None
        found: type = outer.kind if outer is not None else self.tree.type
        return found


@dataclass(frozen=True)
class Record:
    """A dataclass with its fields."""

    kind: type
    fields: Structure


#: A tensor alone, which most states are.
LEAF = Structure(treespec_leaf(), (None,))


def flatten(value: Any) -> tuple[list[Any], Structure]:
    """The leaves in order, and what holds them.

    A field of a dataclass is read as an attribute; the dataclass is made again without calling
    its constructor, which may compute.
    """
    if type(value) is Tensor:
        return [value], LEAF
    leaves: list[Any] = []
    records: list[Record | None] = []
    outer, tree = tree_flatten(value)
    for leaf in outer:
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            inner, fields = flatten(vars(leaf))
            leaves += inner
            records.append(Record(type(leaf), fields))
        else:
            leaves.append(leaf)
            records.append(None)
    return leaves, Structure(tree, tuple(records))


def unflatten(leaves: list[Any], structure: Structure) -> Any:
    """The pytree with these leaves."""
    if structure is LEAF:
        return leaves[0]
    rest = iter(leaves)
    outer = [next(rest) if record is None else _made(record, rest) for record in structure.records]
    return tree_unflatten(outer, structure.tree)


def _made(record: Record, rest: Any) -> Any:
    made: Any = object.__new__(record.kind)
    fields = unflatten([next(rest) for _ in range(_size(record.fields))], record.fields)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _size(structure: Structure) -> int:
    return sum(1 if record is None else _size(record.fields) for record in structure.records)


def leaves_of(value: Any) -> list[Any]:
    """The leaves in order."""
    return flatten(value)[0]


def tensors_of(value: Any) -> list[Tensor]:
    """The leaves that are tensors, in order."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The pytree with the function's result for every tensor."""
    if type(value) is Tensor:
        return function(value)
    leaves, structure = flatten(value)
    changed = [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return unflatten(changed, structure)


def with_tensors(value: Any, tensors: Iterable[Tensor]) -> Any:
    """The pytree with these tensors in place of its own, in order."""
    rest = iter(tensors)
    return map_tensors(lambda _: next(rest), value)


def detached(value: Any) -> Any:
    """The pytree with all tensors detached from autograd's graph."""
    return map_tensors(Tensor.detach, value)


def device_of(module: nn.Module) -> torch.device:
    """Where a module lies: its first parameter, or the CPU."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """A module's parameters, some maybe twice: ``nn.Module.parameters`` is slow for many layers."""
    yield from (p for p in module._parameters.values() if p is not None)
    for child in module._modules.values():
        if child is not None:
            yield from parameters_of(child)
