"""Trace: a module to the programs of its train and eval modes."""

from __future__ import annotations

import inspect
import random
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from pararealize.errors import NotAModuleError, TraceError
from pararealize.ir.program import ABSENT, Kind, Operation, Program, Ref
from pararealize.passes.copying import collection_paused, copy_tree

KINDS: Mapping[str, Kind] = {
    "placeholder": "input",
    "get_attr": "attribute",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "output": "output",
}


@dataclass(frozen=True)
class Trace:
    """The two modes of a network; the same object twice where one program serves both."""

    train: Program
    eval: Program


def copy_module(model: nn.Module) -> nn.Module:
    """A deep copy to compile, so that the caller's model is never touched.

    Raises:
        NotAModuleError: ``model`` is no module.
        TraceError: it cannot be copied.

    """
    check_module(model)
    try:
        return copy_tree(model)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({error}); compile a freshly built model, "
            "before it holds activations or open handles."
        ) from error


def check_module(model: object) -> None:
    """Whether there is a network to compile.

    Raises:
        NotAModuleError: ``model`` is no module; says what it is.
        TraceError: it has weights without numbers.

    """
    if not isinstance(model, nn.Module):
        hint = " Call it first: pararealize(Model(), n=...)." if callable(model) else ""
        raise NotAModuleError(
            f"expected a torch.nn.Module to compile, found {_described(model)}.{hint}"
        )
    tensors = (*model.named_parameters(), *model.named_buffers())
    empty = next((name for name, tensor in tensors if tensor.is_meta), None)
    if empty is not None:
        raise TraceError(
            f"{empty!r} is on the meta device and has no numbers: give it some before compiling, "
            "model.to_empty(device='cpu') and then your initialisation or load_state_dict."
        )


def _described(model: object) -> str:
    return f"the class {model.__name__}" if isinstance(model, type) else f"{model!r:.60}"


def trace(model: nn.Module, given: Iterable[str] = ()) -> Trace:
    """Programs of ``model`` in train and eval mode; its modes are left as they were.

    Arguments that default to ``None`` and are not in ``given`` are traced as ``None``.

    Raises:
        TraceError: the forward code branches on data or uses what ``torch.fx`` cannot record.

    """
    modes = {name: module.training for name, module in model.named_modules()}
    constants = _absent_arguments(model, set(given))
    try:
        with collection_paused():
            train = _record(model.train(), constants)
            evaluate = _record(model.eval(), constants)
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
    merged = merge(train, evaluate)
    return Trace(merged, merged) if merged else Trace(train, evaluate)


def _absent_arguments(model: nn.Module, given: set[str]) -> dict[str, Any]:
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: None for p in parameters if p.default is None and p.name not in given}


class _Tracer(fx.Tracer):
    """Remembers which module's ``forward`` wrote each node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """BatchNorm stays whole in other libraries' versions too: it counts as it runs."""
        batch_norm = isinstance(m, nn.modules.batchnorm._NormBase)
        return batch_norm or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node marked with the path of the module being run."""
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self.scope.module_path
        return node


def _record(model: nn.Module, constants: dict[str, Any]) -> Program:
    before = torch.get_rng_state(), random.getstate()
    try:
        graph = _Tracer().trace(model, concrete_args=constants or None)
    except Exception as error:
        raise TraceError(_explain(model, error)) from error
    _check_draws(model, *before)
    graph.eliminate_dead_code(_is_impure)
    names = inspect.signature(model.forward).parameters
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=False):
        if name in constants:  # torch.fx renames it; it stays an input, which must be None
            node.target, node.kwargs = name, {ABSENT: True}
    return Program(tuple(map(_operation, graph.nodes)))


def _check_draws(model: nn.Module, numbers: Tensor, python: Any) -> None:
    """Whether tracing drew random numbers, which every call of the trace would repeat."""
    if torch.equal(numbers, torch.get_rng_state()) and python == random.getstate():
        return
    torch.set_rng_state(numbers)
    random.setstate(python)
    raise TraceError(
        f"{type(model).__name__} draws random numbers in its forward that depend on no input, and "
        "a trace would keep those of one call: draw them like the input, torch.rand_like(x), or "
        "in a function f kept whole with torch.fx.wrap('f')."
    )


def _is_impure(node: fx.Node) -> bool:
    """Keep everything that may act by more than its value: modules, in-place and random calls."""
    name = getattr(node.target, "__name__", str(node.target))
    return node.op in {"placeholder", "output", "call_module"} or (
        name.endswith("_") and not name.endswith("__")
    )


def _operation(node: fx.Node) -> Operation:
    def reference(leaf: Any) -> Any:
        return Ref(leaf.name) if isinstance(leaf, fx.Node) else leaf

    args: Any = map_aggregate((node.args, dict(node.kwargs)), reference)
    scope = node.meta.get("scope", "")
    return Operation(node.name, KINDS[node.op], node.target, tuple(args[0]), dict(args[1]), scope)


def _explain(model: nn.Module, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    inside = tuple(str(Path(file).parent) for file in (torch.__file__, __file__))
    outside = [f for f in frames if not f.filename.startswith(inside)]
    where = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
    line = f" ({outside[-1].line})" if outside and outside[-1].line else ""
    return (
        f"{type(model).__name__} cannot be traced{where}{line}: {error}. A network is compiled "
        "from one graph, so its forward may not branch or loop on tensor values: move the branch "
        "out of forward, replace it by torch.where(condition, a, b), or put it in a function f "
        "and keep that whole with torch.fx.wrap('f')."
    )


def merge(train: Program, evaluate: Program) -> Program | None:
    """One program for both modes, or ``None`` where they differ in more than a flag.

    A constant that is ``True`` in train mode and ``False`` in eval mode, as in
    ``F.dropout(x, training=self.training)``, becomes a reading of its module's own flag.
    """
    if len(train) != len(evaluate):
        return None
    operations: list[Operation] = []
    flags: dict[str, Operation] = {}
    for a, b in zip(train, evaluate, strict=True):
        if (a.name, a.kind, a.target) != (b.name, b.kind, b.target):
            return None
        flag = Ref(f"training_of_{a.scope.replace('.', '_') or 'root'}")
        args = _unify((a.args, dict(a.kwargs)), (b.args, dict(b.kwargs)), flag)
        if args is None:
            return None
        merged = Operation(a.name, a.kind, a.target, args[0], args[1], a.scope)
        if flag.name in merged.uses:
            flags[flag.name] = Operation(flag.name, "training", a.scope, scope=a.scope)
        operations.append(merged)
    return Program(tuple(flags.values()) + tuple(operations))


def _unify(a: Any, b: Any, flag: Ref) -> Any:
    if a is True and b is False:
        return flag
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        values = {key: _unify(a[key], b[key], flag) for key in a}
        return None if any(values[k] is None and a[k] is not None for k in a) else values
    if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        items = [_unify(x, y, flag) for x, y in zip(a, b, strict=True)]
        if any(item is None and x is not None for item, x in zip(items, a, strict=True)):
            return None
        return type(a)(items)
    same = a is b or (type(a) is type(b) and bool(a == b))
    return a if same else None
