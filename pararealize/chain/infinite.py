"""Infinite: whether the states of a network may hold infinite values."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from torch import Tensor, nn

from pararealize.ir.program import Operation, Program
from pararealize.propagators.paths import submodule
from pararealize.runtime.effects.statistics import is_torchs

#: Numbers as large as this stand for infinity, and two of them make one.
HUGE = 1e30
#: Functions that make infinities of finite numbers that networks have, zeros.
POLES = frozenset({"log", "log2", "log10", "reciprocal", "rsqrt"})


def may_be_infinite(programs: Iterable[Program], model: nn.Module) -> bool:
    """Whether an operation may make an infinite value, as masks of -inf and running minima are.

    Modules that cannot be looked into may.
    """
    return any(_may(operation, model) for program in programs for operation in program)


def _may(operation: Operation, model: nn.Module) -> bool:
    if operation.kind == "module":
        return not all(map(is_torchs, submodule(model, operation.target).modules()))
    if operation.kind == "attribute":
        value = attrgetter(operation.target)(model)
        is_buffer = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
        return is_buffer and value.is_floating_point() and _is_huge(value)
    given = (*operation.args, *operation.kwargs.values())
    numbers = (value for value in given if isinstance(value, float))
    return operation.call in POLES or any(not abs(number) < HUGE for number in numbers)


def _is_huge(value: Tensor) -> bool:
    return bool(value.numel()) and not value.is_meta and not bool((value.abs() < HUGE).all())
