"""Recorder: the operations of one mode of a module, with ``torch.fx``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, is_autocast_enabled, is_grad_enabled, nn
from torch.utils._pytree import tree_leaves

from pararealize.errors import TraceError
from pararealize.ir.chain import TensorSpec
from pararealize.ir.program import FIXED, CheckpointRegion, Program
from pararealize.propagators.paths import submodule
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
from pararealize.tracing.decider import Decider, UndecidedError
from pararealize.tracing.draft import Draft
from pararealize.tracing.factories import factories_recorded
from pararealize.tracing.functions import applied_whole
from pararealize.tracing.instances import answered, scopes_of
from pararealize.tracing.kept_functions import functions_kept
from pararealize.tracing.kinds import kind_of, kind_of_module
from pararealize.tracing.nodes import is_impure, operation_of
from pararealize.tracing.places import explain
from pararealize.tracing.traced_value import TracedValue
from pararealize.tracing.writes import with_writes


class UntraceableError(Exception):
    """The innermost module whose ``forward`` cannot be recorded, and why; the root's path is "".

    ``shapes`` says that the shapes of the inputs, which were not given, might have helped.
    """

    def __init__(self, path: str, reason: str, *, shapes: bool) -> None:
        super().__init__(reason)
        self.path, self.reason, self.shapes = path, reason, shapes


def record(
    model: nn.Module,
    whole: Mapping[str, str],
    constants: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
    *,
    every: bool = False,
) -> tuple[Program, Draft]:
    """The operations of ``model`` in its present mode, and all that the trace saw.

    ``whole`` has the paths of modules to call as they are instead of looking into them,
    ``constants`` the arguments that always have one value, ``given`` others, or their specs, whose
    shapes decide branches. That the network draws random numbers is seen at once, and which module
    does where ``every`` one is watched, which is done if it has to be known.

    Raises:
        UntraceableError: says which module stands in the way.

    """
    shaped = (k for k, v in (given or {}).items() if isinstance(v, (Tensor, TensorSpec)))
    draft = Draft(whole, constants, frozenset(shaped))
    decider = Decider(model, {**constants, **given} if given else {}, operation_of)
    tracer = _Tracer(draft, decider, every=every)
    tracer.given = given or {}
    own = other_generators(model.modules())
    tracer.generators = (torch.device("cpu"), *(own or (PYTHON, NUMPY)))
    try:
        asked = answered(model, _kind, tracer.applied)
        made = factories_recorded(tracer.applied, _is_traced)
        kept = functions_kept(scopes_of(model), tracer.applied, _is_traced)
        with checkpoints.seen(tracer.region), applied_whole(tracer.applied), asked, made, kept:
            graph = tracer.watched(lambda: tracer.trace(model, dict(constants) or None))
    except Exception as error:
        if isinstance(error, _DrawnError) and not every:
            return record(model, whole, constants, given, every=True)
        reason = explain(error)
        raise UntraceableError(tracer.failed, reason, shapes=decider.asked_in_vain) from error
    draft = replace(draft, guards=decider.guards())
    graph.eliminate_dead_code(is_impure)
    names = inspect.signature(model.forward).parameters
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=False):
        if name in (fixed := {**tracer.settled, **constants}):
            value = fixed[name]  # torch.fx renames it; it stays an input, which must be this
            node.target, node.args, node.kwargs = name, (value,), {FIXED: value}
    program = with_writes(Program(tuple(map(operation_of, graph.nodes))), model, given or {})
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


def _is_traced(values: Any) -> bool:
    """Whether a traced value is in the values, or an end of a slice there."""
    leaves = tree_leaves(values)
    ends = (end for leaf in leaves if type(leaf) is slice for end in (leaf.start, leaf.stop))
    return any(issubclass(type(leaf), fx.Proxy) for leaf in (*leaves, *ends))


def _kind(value: Any) -> type | None:
    """The class of what a traced value stands for; most are tensors."""
    return kind_of(value.node) or Tensor if issubclass(type(value), fx.Proxy) else None


class _Tracer(fx.Tracer):
    """Remembers which module's ``forward`` wrote each node, and where recording failed.

    What is computed of buffers stays an operation: as a constant it would be that of one moment.
    """

    proxy_buffer_attributes = True

    def __init__(self, draft: Draft, decider: Decider, *, every: bool) -> None:
        super().__init__()
        self.decider = decider
        self.every = every
        self.given: Mapping[str, Any] = {}
        self.settled: dict[str, Any] = {}
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
        if self.decider.runs:
            return forward(*args, **kwargs)
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
        return (
            self.create_proxy("call_function", function, args, kwargs)
            if _is_traced((args, kwargs))
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

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Weights as traced values, but for those of the run that decides."""
        if self.decider.runs:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Which way a branch goes, where shapes decide it."""
        try:
            return bool(self.decider.told(obj.node, bool))
        except UndecidedError:
            return super().to_bool(obj)

    def decided(self, obj: fx.Proxy, ask: Callable[[Any], Any]) -> Any:
        """A number that Python asks for; of a module that asks for one of the input's, none.

        Called whole, the module takes any number.
        """
        if obj.node.op == "placeholder":
            name, default = str(obj.node.target), (*obj.node.args, None)[0]
            value = self.given.get(name, default)
            if type(value) in {int, float}:  # a number of steps: from now on always this one
                self.settled[name] = value
                return ask(value)
        with suppress(UndecidedError):
            if not self.scope.module_path or self.decider.is_fixed(obj.node):
                return self.decider.told(obj.node, ask)
        raise TraceError("a traced value is asked for its number, on which the program depends")

    def iter(self, obj: Any) -> Iterator[fx.Proxy]:
        """Its items, as many as the inputs at hand decide."""
        count = self.decided(obj, len)
        return (obj[i] for i in range(count))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value that can be written on."""
        return TracedValue(node, self)

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
        module = submodule(self.root, owner)
        homes = (module._parameters, module._buffers, module._modules, module.__dict__)
        return type(next(home[name] for home in homes if name in home))


def _modes() -> tuple[bool, ...]:
    """Modes of torch that decide what an operation does."""
    return is_grad_enabled(), is_autocast_enabled("cpu"), is_autocast_enabled("cuda")
