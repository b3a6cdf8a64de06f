"""Stand-ins: tensors without numbers for a forward's arguments, and numbers for such tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pararealize.ir.chain import TensorSpec
from pararealize.tracing.shapes import ShapesOnly


def spread(value: Any) -> Any:
    """An argument as tensors of its own."""

    def made(leaf: Any) -> Any:
        spec = isinstance(leaf, TensorSpec)
        device = torch.device("cpu") if spec else leaf.device
        empty = torch.empty(leaf.shape, dtype=leaf.dtype, device=device)
        return empty.requires_grad_(not spec and leaf.requires_grad and leaf.is_leaf)

    shaped = (Tensor, TensorSpec)
    return tree_map(lambda leaf: made(leaf) if isinstance(leaf, shaped) else leaf, value)


def numbers(shapes: ShapesOnly, tensor: Tensor) -> Tensor:
    """A tensor with numbers, in place of one whose shape alone is known."""
    if id(tensor) not in shapes.twins or tensor.untyped_storage().nbytes():
        return tensor
    if tensor.is_floating_point():
        return torch.ones(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)


@contextmanager
def data_kept(model: nn.Module) -> Iterator[None]:
    """Give weights their data back after the block, where a forward says ``weight.data = …``."""
    before = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        for tensor, kept in before:
            if tensor.data_ptr() != kept.data_ptr():
                tensor.data = kept
