"""Precision: recurrences compute in that of their weights, whatever autocast asks of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def without_autocast(weight: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A block without autocast; where there is some, with the tensors in the weight's dtype.

    Rounding to half precision at every step of a long recurrence would add up, and a gradient that
    is written out has its tensors in one dtype.
    """
    kind = weight.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        yield tensors
        return
    with torch.autocast(kind, enabled=False):
        yield tuple(tensor.to(weight.dtype) for tensor in tensors)
