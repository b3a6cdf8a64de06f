"""Compiled: the operations of a segment as a function of a module and a state."""

from __future__ import annotations

import linecache
import operator
import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

from pararealize.ir.program import Operation, Ref, Segment
from pararealize.propagators.block_list import OutsideBlocks
from pararealize.propagators.recomputed import with_regions
from pararealize.runtime.effects.statistics import is_torchs
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


def modules_of(segment: Segment) -> tuple[str, ...]:
    """Paths of the modules that the segment calls."""
    return tuple(dict.fromkeys(o.target for o in segment.operations if o.kind == "module"))


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at a path, as ``root.get_submodule`` finds it in ten times as long.

    Raises:
        AttributeError: there is none.

    """
    module: nn.Module | None = root
    for name in path.split(".") if path else ():
        module = None if module is None else module._modules.get(name)
    return root.get_submodule(path) if module is None else module


def parts_of(module: nn.Module) -> Iterable[nn.Module]:
    """The module and all inside it; most that are called have none."""
    return module.modules() if module._modules else (module,)


def made_submodule(tree: nn.Module, path: str) -> nn.Module:
    """The module at a path of a tree; empty ones are made on the way where there is none."""
    for name in filter(None, path.split(".")):
        tree._modules.setdefault(name, nn.Module())
        tree = tree.get_submodule(name)
    return tree


def around_of(segment: Segment, root: nn.Module) -> tuple[str, ...]:
    """Paths of modules and tensors that the segment's functions of the whole network read."""
    functions = (o.target for o in segment.operations if isinstance(o.target, OutsideBlocks))
    return tuple(dict.fromkeys(path for f in functions for path in f.outside(root)))


RANDOM_FUNCTIONS = frozenset(
    {
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "rrelu"),
        *("feature_alpha_dropout", "dropout_", "rand", "randn", "rand_like", "randn_like"),
        *("bernoulli", "bernoulli_", "normal", "normal_", "uniform_", "multinomial", "randint"),
        *("randperm", "gumbel_softmax", "stochastic_depth", "scaled_dot_product_attention"),
        *("multi_head_attention_forward", "drop_path", "randint_like", "exponential_"),
    }
)


def is_random(segment: Segment, root: nn.Module) -> bool:
    """Whether the segment may draw random numbers; unknown modules may."""
    return any(_draws(operation, root) for operation in segment.operations)


def _draws(operation: Operation, root: nn.Module) -> bool:
    if operation.draws or operation.kind == "network":
        return True
    if operation.kind == "module":
        return module_draws(submodule(root, operation.target))
    return operation.call in RANDOM_FUNCTIONS


def module_draws(module: nn.Module) -> bool:
    """Whether a module may draw random numbers: dropout-like ones, and any not from torch."""
    drawing, able = (nn.modules.dropout._DropoutNd, nn.RReLU), (nn.MultiheadAttention, nn.RNNBase)
    return any(
        isinstance(part, drawing)
        or (isinstance(part, able) and bool(part.dropout))
        or not is_torchs(part)
        for part in parts_of(module)
    )
