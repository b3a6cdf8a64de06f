"""Recorder: the operations of one mode of a module, with ``torch.fx``."""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, is_autocast_enabled, is_grad_enabled, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from pararealize.errors import TraceError
from pararealize.ir.program import FIXED, CheckpointRegion, Kind, Operation, Program, Ref
from pararealize.propagators.step import Step
from pararealize.runtime.effects.generators import (
    NUMPY,
    PYTHON,
    Generator,
    is_same,
    other_generators,
    put_back,
    state_of,
)
from pararealize.tracing import checkpoints
from pararealize.tracing.aliasing import written_where_it_shows
from pararealize.tracing.composites import unrolled
from pararealize.tracing.draft import Draft
from pararealize.tracing.functions import applied_whole
from pararealize.tracing.instances import answered
from pararealize.tracing.kinds import kind_of, kind_of_module

KINDS: Mapping[str, Kind] = {
    "placeholder": "input",
    "get_attr": "attribute",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "output": "output",
}


class UntraceableError(Exception):
    """The innermost module whose ``forward`` cannot be recorded, and why; the root's path is ""."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def record(
    model: nn.Module,
    whole: Mapping[str, str],
    constants: Mapping[str, Any],
    tensors: Iterable[str] = (),
    *,
    every: bool = False,
) -> tuple[Program, Draft]:
    """The operations of ``model`` in its present mode, and all that the trace saw.

    ``whole`` has the paths of modules to call as they are instead of looking into them,
    ``constants`` the arguments that always have one value, ``tensors`` those known to be such. That
    the network draws random numbers is seen at once, and which module does where ``every`` one is
    watched, which is done if it has to be known.

    Raises:
        UntraceableError: says which module stands in the way.

    """
    draft = Draft(whole, constants, frozenset(tensors))
    tracer = _Tracer(draft, every=every)
    own = other_generators(model.modules())
    tracer.generators = (torch.device("cpu"), *(own or (PYTHON, NUMPY)))
    try:
        asked = answered(model, _kind)
        with checkpoints.seen(tracer.region), applied_whole(tracer.applied), asked:
            fixed = dict(constants) or None
            graph = tracer.watched(lambda: tracer.trace(model, concrete_args=fixed))
    except Exception as error:
        if isinstance(error, _DrawnError) and not every:
            return record(model, whole, constants, tensors, every=True)
        raise UntraceableError(tracer.failed, explain(error)) from error
    graph.eliminate_dead_code(_is_impure)
    names = inspect.signature(model.forward).parameters
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=False):
        if name in constants:  # torch.fx renames it; it stays an input, which must be this
            value = constants[name]
            node.target, node.args, node.kwargs = name, (value,), {FIXED: value}
    program = Program(tuple(map(_operation, graph.nodes)))
    return written_where_it_shows(program, model), draft


def is_whole(module: nn.Module, path: str, whole: Mapping[str, str]) -> bool:
    """Whether a trace calls a module without looking into it, as torch's own layers.

    BatchNorm stays whole in other libraries' versions too: it counts as it runs. A Step does, to
    be asked for longer steps.
    """
    kinds = (nn.modules.batchnorm._NormBase, Step)
    torchs = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return (
        path in whole
        or isinstance(module, kinds)
        or (torchs and not isinstance(module, nn.Sequential))
    )


class _DrawnError(TraceError):
    """Random numbers were drawn while the trace was made."""


class _Value(fx.Proxy):
    """A traced value that can be written on: ``y += 1`` changes what else is called ``y``.

    Asked for an attribute that it cannot have, it has none.
    """

    def __getattr__(self, name: str) -> Any:
        kind = kind_of(self.node)
        if kind is not None and not hasattr(kind, name):
            raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
        return _Attribute(self, name)

    def _written(self, call: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", call, (self, other), {})

    __iadd__ = partialmethod(_written, operator.iadd)
    __isub__ = partialmethod(_written, operator.isub)
    __imul__ = partialmethod(_written, operator.imul)
    __itruediv__ = partialmethod(_written, operator.itruediv)


def _kind(value: Any) -> type | None:
    """The class of what a traced value stands for; most are tensors."""
    return kind_of(value.node) or Tensor if issubclass(type(value), fx.Proxy) else None


class _Attribute(fx.proxy.Attribute, _Value):
    """An attribute of a traced value, or a method to be called."""


class _Tracer(fx.Tracer):
    """Remembers which module's ``forward`` wrote each node, and where recording failed.

    What is computed of buffers stays an operation: as a constant it would be that of one moment.
    """

    proxy_buffer_attributes = True

    def __init__(self, draft: Draft, *, every: bool) -> None:
        super().__init__()
        self.every = every
        self.generators: tuple[Generator, ...] = (torch.device("cpu"), PYTHON, NUMPY)
        self.recomputed: CheckpointRegion | None = None
        self.regions = 0
        self.draft, self.whole, self.failed, self.modes = draft, draft.whole, "", _modes()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is called without looking into it."""
        return is_whole(m, module_qualified_name, self.whole)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Look into a module, and remember it if that fails."""
        path = self.path_of_module(m)
        inside = unrolled(m, args, kwargs) if path not in self.whole else None
        if inside is None and self.is_leaf_module(m, path):
            result = super().call_module(m, forward, args, kwargs)
            result.node.meta["kind"] = kind_of_module(m)
            return result
        try:
            with self.draft.within(path):
                if inside is not None:
                    with fx.proxy.ScopeContextManager(self.scope, fx.proxy.Scope(path, type(m))):
                        return inside(*args, **kwargs)
                call = partial(super().call_module, m, forward, args, kwargs)
                return self.watched(call) if self.every else call()
        except Exception:
            self.failed = self.failed or path
            raise

    @contextmanager
    def region(self, preserve: bool) -> Iterator[None]:
        """What is recorded within is computed again in the backward pass; regions do not nest."""
        outer, self.recomputed = (
            self.recomputed,
            self.recomputed or CheckpointRegion(self.regions, preserve),
        )
        self.regions += 1
        try:
            yield
        finally:
            self.recomputed = outer

    def applied(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call that is recorded whole where it is given a traced value."""
        traced = any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs)))
        return (
            self.create_proxy("call_function", function, args, kwargs)
            if traced
            else function(*args, **kwargs)
        )

    def watched(self, call: Callable[[], Any]) -> Any:
        """The result of the call, which may draw no random numbers of its own.

        Every call of the trace would repeat them.
        """
        before = [(generator, state_of(generator)) for generator in self.generators]
        result = call()
        moved = [pair for pair in before if not is_same(pair[1], state_of(pair[0]))]
        for generator, state in moved:
            put_back(generator, state)
        if moved:
            raise _DrawnError(
                "it draws random numbers that depend on no input, and a trace would keep those of "
                "one call (draw them like the input, torch.rand_like(x))"
            )
        return result

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value that can be written on."""
        return _Value(node, self)

    def create_arg(self, a: Any) -> Any:
        """A traced value as its node, whatever it says it is."""
        if issubclass(type(a), fx.Proxy):
            return a.node
        if isinstance(a, dict) and type(a) is not dict and all(isinstance(k, str) for k in a):
            # Answers keep their type, as an OrderedDict does, which fx takes for a dict.
            items = {key: self.create_arg(value) for key, value in a.items()}
            return self.create_node("call_function", type(a), (), items)
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node marked with the path of the module being run."""
        if _modes() != self.modes:
            raise TraceError(
                "it switches gradients or autocast on or off for some of its operations, which a "
                "graph does not record"
            )
        node = super().create_node(*args, **kwargs)
        node.meta["scope"], node.meta["recomputed"] = self.scope.module_path, self.recomputed
        if node.op == "get_attr":
            node.meta["kind"] = self._kind_of_attribute(str(node.target))
        if node.op == "placeholder" and node.target in self.draft.tensors:
            node.meta["kind"] = Tensor
        self.draft.record(node)
        return node

    def _kind_of_attribute(self, path: str) -> type:
        """Looked up where it lies: asked for, it would be recorded."""
        owner, _, name = path.rpartition(".")
        module = self.root.get_submodule(owner)
        homes = (module._parameters, module._buffers, module._modules, module.__dict__)
        return type(next(home[name] for home in homes if name in home))


def _modes() -> tuple[bool, ...]:
    """Modes of torch that decide what an operation does."""
    return is_grad_enabled(), is_autocast_enabled("cpu"), is_autocast_enabled("cuda")


def _is_impure(node: fx.Node) -> bool:
    """Keep everything that may act by more than its value: modules, in-place and random calls."""
    if node.op in {"placeholder", "output", "call_module"}:
        return True
    name = getattr(node.target, "__name__", str(node.target))
    writes = (name.endswith("_") and not name.endswith("__")) or name in {"setitem", "__setitem__"}
    flagged = node.kwargs.get("inplace") not in {None, False} or "out" in node.kwargs
    return writes or flagged


def _operation(node: fx.Node) -> Operation:
    def reference(read: fx.Node) -> Any:
        return Ref(read.name)

    args: Any = map_arg((node.args, dict(node.kwargs)), reference)
    scope, region = node.meta.get("scope", ""), node.meta.get("recomputed")
    kind = KINDS[node.op]
    return Operation(
        node.name, kind, node.target, tuple(args[0]), dict(args[1]), scope, recomputed=region
    )


def explain(error: Exception) -> str:
    """What went wrong, with the user's file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = tuple(str(Path(file).parent) for file in (torch.__file__, __file__))
    outside = [f for f in frames if not f.filename.startswith(inside)]
    where = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
    line = f" ({outside[-1].line})" if outside and outside[-1].line else ""
    if "co_varnames" in str(error):  # what torch.fx makes of a decorator's wrapper
        return ": a decorator around its forward takes other arguments than forward says"
    return f"{where}{line}: {error}"
