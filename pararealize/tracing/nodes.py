"""Nodes: those of a ``torch.fx`` graph, as operations of a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from pararealize.ir.program import Kind, Operation, Ref
from pararealize.propagators.memory import ends_as_writing
from pararealize.tracing.writes import is_foreign

KINDS: Mapping[str, Kind] = {
    "placeholder": "input",
    "get_attr": "attribute",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "output": "output",
}


def is_impure(node: fx.Node) -> bool:
    """Keep everything that may act by more than its value: modules, in-place and random calls."""
    if node.op in {"placeholder", "output", "call_module"} or is_foreign(node.target):
        return True
    name = getattr(node.target, "__name__", str(node.target))
    writes = ends_as_writing(node.target, name) or name in {"setitem", "__setitem__"}
    flagged = node.kwargs.get("inplace") not in {None, False} or "out" in node.kwargs
    return writes or flagged


def operation_of(node: fx.Node) -> Operation:
    """A node of a graph as an operation of a program."""

    def reference(read: fx.Node) -> Any:
        return Ref(read.name)

    args: Any = map_arg((node.args, dict(node.kwargs)), reference)
    scope, region = node.meta.get("scope", ""), node.meta.get("recomputed")
    kind = KINDS[node.op]
    return Operation(
        node.name, kind, node.target, tuple(args[0]), dict(args[1]), scope, recomputed=region
    )
