"""Equality: values of the network and of its program, bit for bit, and how far they are apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.values.pytree import leaves_of

#: Values without tensors that are compared by their own ``==``.
PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, slice, type)


def is_equal(one: Any, other: Any) -> bool:
    """Whether two values have the same leaves, bit for bit; NaN is NaN."""
    if one is other:
        return True
    mine, theirs = _leaves(one), _leaves(other)
    return len(mine) == len(theirs) and all(map(_same_leaf, mine, theirs))


def _leaves(value: Any) -> list[Any]:
    """The leaves; a tuple of tensors, as most layers take, is not looked into."""
    if type(value) is tuple and all(isinstance(item, Tensor) for item in value):
        return list(value)
    return leaves_of(value)


def largest_difference(one: Any, other: Any) -> float | None:
    """The largest difference of numbers, or ``None`` where shapes, types or kinds differ."""
    found = 0.0
    mine, theirs = leaves_of(one), leaves_of(other)
    if len(mine) != len(theirs):
        return None
    for a, b in zip(mine, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if not _same_leaf(a, b):
                return None
        elif not _same_leaf(a, b):
            if a.shape != b.shape or a.dtype != b.dtype or not a.numel():
                return None
            wide = torch.complex128 if a.is_complex() else torch.float64
            distance = (_dense(a).to(wide) - _dense(b).to(wide)).abs().max().item()
            found = max(found, distance) if not math.isnan(distance) else distance
    return found


def _same_leaf(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and _same_tensor(one, other)
    if isinstance(one, PLAIN) and isinstance(other, PLAIN):
        return bool(one == other) or (_is_nan(one) and _is_nan(other))
    # Objects that are made anew in every call have no equality of their own.
    return type(one) is type(other) and _same_attributes(one, other)


def _same_attributes(one: Any, other: Any) -> bool:
    mine, theirs = getattr(one, "__dict__", {}), getattr(other, "__dict__", {})
    return mine.keys() == theirs.keys() and all(
        _same_leaf(mine[name], theirs[name])
        for name in mine
        if isinstance(mine[name], (Tensor, *PLAIN))
    )


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    one, other = _dense(one.detach()), _dense(other.detach())
    if torch.equal(one, other):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()
