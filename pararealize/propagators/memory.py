"""Memory: which values an operation writes on, and whose memory its result may share."""

from __future__ import annotations

import operator
from typing import Any

from torch import nn

from pararealize.ir.program import Operation, Ref, Segment
from pararealize.propagators.block_list import OutsideBlocks
from pararealize.propagators.paths import parts_of, submodule

#: Operations whose result never shares memory with what they read.
ALLOCATING = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Embedding,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
)

#: Functions and methods whose result never shares memory with what they read.
ALLOCATING_FUNCTIONS = frozenset(
    {
        *("add", "sub", "mul", "truediv", "matmul", "cat", "stack", "softmax", "linear"),
        *("conv1d", "conv2d", "conv3d", "layer_norm", "group_norm", "batch_norm"),
        *("relu", "tanh", "sigmoid", "gelu", "silu", "mean", "sum"),
        *("zeros", "ones", "empty", "full", "arange", "linspace", "eye", "rand", "randn"),
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_empty", "new_full"),
    }
)

#: Operators of Python whose names end as those of functions that write do.
NOT_WRITING = frozenset({operator.and_, operator.or_, operator.not_, operator.is_})


def is_overwritten(segment: Segment, name: str, root: nn.Module) -> bool:
    """Whether an operation may write on ``name`` or on a view of it."""
    aliases = {name}
    for operation in segment.operations:
        if not aliases.isdisjoint(written_by(operation, root)):
            return True
        if not aliases.isdisjoint(memory_of(operation, root)):
            aliases.add(operation.name)
    return False


def written_by(operation: Operation, root: nn.Module) -> tuple[str, ...]:
    """Names of the values that the operation writes on."""
    if operation.kind != "module":
        return written_by_call(operation)
    # A container that is called whole may begin with a layer that writes on its input.
    flagged = any(getattr(p, "inplace", False) for p in parts_of(submodule(root, operation.target)))
    return tuple(dict.fromkeys((*(_first(operation) if flagged else ()), *operation.writes)))


def written_by_call(operation: Operation) -> tuple[str, ...]:
    """Names of the values that a function or a method writes on; none for modules."""
    if operation.kind not in {"function", "method"}:
        return ()
    name, inplace = operation.call, {"iadd", "isub", "imul", "itruediv", "ipow", "setitem"}
    trailing = ends_as_writing(operation.target, name)
    flagged = operation.kwargs.get("inplace") not in (None, False)
    out = operation.kwargs.get("out")
    first = _first(operation) if name.strip("_") in inplace or trailing or flagged else ()
    first = tuple(dict.fromkeys((*first, *operation.writes)))
    return (*first, out.name) if isinstance(out, Ref) else first


def ends_as_writing(target: Any, name: str) -> bool:
    """Whether a function or method is called as those are that write, with one underscore."""
    called = name.endswith("_") and not name.endswith("__")
    return called and target not in NOT_WRITING


def _first(operation: Operation) -> tuple[str, ...]:
    first = operation.args[0] if operation.args else operation.kwargs.get("input")
    return (first.name,) if isinstance(first, Ref) else ()


def memory_of(operation: Operation, root: nn.Module) -> tuple[str, ...]:
    """Names of the values that the operation's result may share memory with."""
    written = written_by(operation, root)
    if operation.kind == "network" and isinstance(operation.target, OutsideBlocks):
        return tuple(ref.name for ref in operation.args[: operation.target.of_blocks])
    if operation.kind == "module":
        allocates = isinstance(submodule(root, operation.target), ALLOCATING)
        return () if allocates and not written else operation.uses
    if operation.call in {"getitem", "__getitem__"}:
        return _first(operation)  # never the index's
    return written or (() if operation.call in ALLOCATING_FUNCTIONS else operation.uses)
