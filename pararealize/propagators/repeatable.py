"""Repeatable: values of the network's inputs alone, which every subnetwork computes for itself."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation


@final
@dataclass(frozen=True)
class Repeatable:
    """A function or a method as a function of the network, which it does not read."""

    call: Any
    is_method: bool

    @property
    def __name__(self) -> str:
        """The name that error messages show."""
        return str(self.call) if self.is_method else str(getattr(self.call, "__name__", self.call))

    def __call__(self, _root: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The value."""
        if self.is_method:
            owner, *rest = args
            return getattr(owner, self.call)(*rest, **kwargs)
        return self.call(*args, **kwargs)

    def __str__(self) -> str:
        """Equal for equal calls: interfaces of both modes are matched by it."""
        return f"repeatable {self.call}"


def is_repeatable(operation: Operation) -> bool:
    """Whether a function or method of tensors always gives the same values for the same ones.

    Known of torch's own by what torch says of them, and of Python's operators.
    """
    call = operation.target
    if operation.kind == "method":
        return hasattr(Tensor, call) and not is_seeded(call)
    if operation.kind != "function":
        return False
    if getattr(operator, operation.call, None) is call or call in {getattr, len, int, float, bool}:
        return True
    # Functions written in Python may call others that draw.
    known = type(call) is not type(is_repeatable) and is_seeded(operation.call) is not None
    return known and not is_seeded(operation.call)


@cache
def is_seeded(name: str) -> bool | None:
    """Whether torch's operator of that name draws random numbers; ``None`` where there is none."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return None
    overloads = (getattr(packet, overload) for overload in packet.overloads())
    return any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)
