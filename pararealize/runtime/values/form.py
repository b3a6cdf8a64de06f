"""Forms: what a state looks like, so that only its numbers need to travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.values.pytree import flatten, unflatten


@dataclass(frozen=True)
class Leaf:
    """One tensor of a state: shape, dtype and the order of its numbers in memory.

    That is the order in which a dropout mask of it is drawn. ``strides`` are those of a dense
    tensor, and none where the numbers lie in the order of the axes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    strides: tuple[int, ...] = ()

    @property
    def differentiable(self) -> bool:
        """Whether a gradient can belong to it."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    def __str__(self) -> str:
        return f"{list(self.shape)} {str(self.dtype).removeprefix('torch.')}"


def leaf_of(tensor: Tensor) -> Leaf:
    """What a tensor looks like."""
    dense = tensor if tensor.is_contiguous() else torch.empty_like(tensor, device="meta")
    strides = () if dense.is_contiguous() else dense.stride()
    return Leaf(tuple(tensor.shape), tensor.dtype, strides)


def flat(tensor: Tensor, leaf: Leaf) -> Tensor:
    """The tensor's numbers as one axis, in the order that the leaf says; a view where it can be."""
    resolved = tensor.detach().resolve_conj().resolve_neg()
    if not leaf.strides:
        return resolved.contiguous().view(-1)
    if resolved.stride() != leaf.strides:
        resolved = empty(leaf, resolved.device).copy_(resolved)
    return resolved.as_strided((resolved.numel(),), (1,))


def empty(leaf: Leaf, device: torch.device) -> Tensor:
    """A tensor to receive into."""
    if not leaf.strides:
        return torch.empty(leaf.shape, dtype=leaf.dtype, device=device)
    return torch.empty_strided(leaf.shape, leaf.strides, dtype=leaf.dtype, device=device)


@dataclass(frozen=True)
class Form:
    """A state without its numbers: its pytree, its tensors, and whatever else lies in it.

    ``tree`` is the state with a number in place of every leaf; torch's own structures of pytrees
    warn when they are unpickled.
    """

    tree: Any
    leaves: tuple[Leaf | None, ...]
    constants: tuple[Any, ...]

    @property
    def tensors(self) -> tuple[Leaf, ...]:
        """The tensors, in order."""
        return tuple(leaf for leaf in self.leaves if leaf is not None)

    @property
    def plain(self) -> bool:
        """Whether all of it is tensors, so that nothing else has to travel."""
        return not self.constants

    def fill(self, tensors: tuple[Tensor, ...]) -> Any:
        """The state with these tensors."""
        some, others = iter(tensors), iter(self.constants)
        values = [next(others) if leaf is None else next(some) for leaf in self.leaves]
        return unflatten(values, flatten(self.tree)[1])


def form_of(value: Any) -> tuple[Form, tuple[Tensor, ...]]:
    """The form of a state, and its tensors."""
    values, structure = flatten(value)
    leaves = tuple(leaf_of(v) if isinstance(v, Tensor) else None for v in values)
    constants = tuple(v for v in values if not isinstance(v, Tensor))
    tree = unflatten(list(range(len(values))), structure)
    return Form(tree, leaves, constants), tuple(v for v in values if isinstance(v, Tensor))
