"""Compiled: the operations of a segment as a function of a module and a state."""

from __future__ import annotations

import linecache
import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

from pararealize.ir.program import Operation, Segment
from pararealize.propagators.memory import is_overwritten
from pararealize.propagators.recomputed import with_regions
from pararealize.runtime.values.pytree import map_tensors

#: Slots of 8 bytes: as many as a chunk of the interpreter's stack of frames has, 16 KiB.
SLOTS = 2048


def with_own_stack_chunk(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose frame no chunk of the interpreter's stack of the usual size holds.

    CPython keeps frames in chunks: a call for which the last one has no room maps a new one, and
    its return unmaps it. Layers called from a frame that ends near the end of a chunk do so one by
    one, each with page faults: 480 convolutions took 30 instead of 18 ms, or did not, as the
    caller's depth would have it. A frame that needs a chunk of its own gets one with room for a
    thousand slots more (``push_chunk`` in CPython's ``pystate.c``), where its calls fit.
    """
    assert isinstance(function, FunctionType)
    code = function.__code__
    function.__code__ = code.replace(co_stacksize=code.co_stacksize + SLOTS)
    return function


#: Operations of a segment that is worth a chunk of the interpreter's stack of its own.
MANY = 64

#: Stands in generated code for a module, until its number is replaced by a look-up.
MARK = "pararealize_module_"
#: Stands before the name of a function of the whole network.
NETWORK = "network_function_"


def _graph(segment: Segment, operations: Iterable[Operation], root: nn.Module) -> fx.Graph:
    """The segment as a ``torch.fx.Graph``: arguments are its state, then the inputs it reads.

    A state or input that the segment would change in place is copied first: the same tensor is
    also a term of the jump at its interface.
    """
    graph = fx.Graph()
    arguments = (*segment.state, *segment.features, *segment.inputs)
    nodes = {name: graph.placeholder(name) for name in arguments}
    around = any(operation.kind == "network" for operation in segment.operations)
    for name in arguments:
        if is_overwritten(segment, name, root):
            node = nodes[name]
            whole = graph.call_function(_cloned, (node,)) if around else None
            nodes[name] = whole or graph.call_method("clone", (node,))
    for operation in operations:
        _copy(graph, operation, nodes)
    if segment.results is not None:
        results = tuple(nodes[name] for name in segment.results)
        graph.output(results[0] if len(results) == 1 else results)
    return graph


def _cloned(value: Any) -> Any:
    """A copy of an argument that may be a list of tensors."""
    return map_tensors(torch.clone, value)


def _copy(graph: fx.Graph, operation: Operation, nodes: dict[str, fx.Node]) -> None:
    args, kwargs = operation.map_refs(lambda ref: nodes[ref.name])
    name = operation.name
    match operation.kind:
        case "output":
            graph.output(args[0])
        case "attribute":
            nodes[name] = graph.create_node("get_attr", operation.target)
        case "network" | "context":
            nodes[name] = graph.create_node("call_module", NETWORK + name, args, kwargs, name=name)
        case "training":
            path = f"{operation.target}.training" if operation.target else "training"
            nodes[name] = graph.create_node("get_attr", path)
        case kind:
            call, target = f"call_{kind}", operation.target
            nodes[name] = graph.create_node(call, target, args, kwargs, name=name)


def compile_segment(segment: Segment, root: nn.Module, name: str) -> Callable[..., Any]:
    """A function ``(root, *state, *inputs)`` that runs the segment with the modules of ``root``.

    Where it asks autograd for a derivative, gradients are on in it, wherever it is called.
    """
    function: Callable[..., Any] = function_of(*source_of(segment, root, name), name)
    if len(segment.operations) >= MANY:
        function = with_own_stack_chunk(function)
    return torch.enable_grad()(function) if takes_derivatives(segment.operations) else function


def takes_derivatives(operations: Iterable[Operation]) -> bool:
    """Whether a network asks autograd for a derivative in its forward."""
    return any(operation.target is torch.autograd.grad for operation in operations)


def source_of(segment: Segment, root: nn.Module, name: str) -> tuple[str, dict[str, Any]]:
    """The function that runs a segment as Python code, and the names that it uses."""
    operations = with_regions(segment, lambda part: compile_segment(part, root, name))
    source, scope = _source(_graph(segment, operations, root))
    for operation in operations:
        if operation.kind in {"network", "context"}:
            scope[f"{NETWORK}{operation.name}"] = partial(partial, operation.target)
    return source, scope


def function_of(source: str, scope: dict[str, Any], name: str) -> Callable[..., Any]:
    """The function of generated code, new at every call; its code object is its own."""
    file = f"<pararealize {name}>.{zlib.crc32(source.encode()):08x}"
    # Tracebacks show the lines of generated code.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), scope)
    function: Callable[..., Any] = scope["forward"]
    return function


def _source(graph: fx.Graph) -> tuple[str, dict[str, Any]]:
    """The graph as Python code, and the names that it uses.

    Modules are looked up in the dictionaries of their parents: as attributes, which
    ``nn.Module.__getattr__`` finds in Python, they would take as long as a small layer.
    """
    paths = []
    for node in graph.find_nodes(op="call_module"):
        paths.append(node.target)
        node.target = f"{MARK}{len(paths) - 1}"
    code = graph.python_code("self")
    found = re.sub(rf"self\.{MARK}(\d+)", lambda m: _lookup(paths[int(m[1])]), code.src)
    return found, dict(code.globals)


def _lookup(path: str) -> str:
    if path.startswith(NETWORK):
        return f"{path}(self)"
    return "self" + "".join(f"._modules[{name!r}]" for name in path.split("."))
