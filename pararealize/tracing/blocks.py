"""Blocks: the programs of a network around its lists of blocks, where a trace cannot look in.

    stem ── block 0 ── block 1 ── … ── between ── block i ── … ── block L-1 ── head
      └─ context (masks, positions, sizes) ─┴──────────┘

The network's own forward runs once in each mode on the example inputs, to see how each block is
called. Where no list is named, the lists that run one after another are found by such a call.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pararealize.errors import TraceError
from pararealize.ir.chain import TensorSpec
from pararealize.ir.plan import Tracing
from pararealize.propagators.calls import Calls, given_of
from pararealize.propagators.expected import expected_of
from pararealize.propagators.left_out import how_to_keep
from pararealize.propagators.meta_run import REFUSALS
from pararealize.propagators.stubs import plain_attributes
from pararealize.runtime.values.pytree import device_of, tensors_of
from pararealize.tracing.ambient import with_ambient_values
from pararealize.tracing.apart import quiet_copy
from pararealize.tracing.around import inputs_of, written
from pararealize.tracing.found_lists import find_lists
from pararealize.tracing.hidden import hidden
from pararealize.tracing.hooks import held, hooks_are_heard
from pararealize.tracing.links import gaps
from pararealize.tracing.mutation import trace_keeping_state
from pararealize.tracing.observation import PLAIN, Observation, observe
from pararealize.tracing.padded import showing_masks
from pararealize.tracing.trace import Trace
from pararealize.tracing.trials import Trials

#: Arguments that turn on what blocks keep from call to call.
CACHES = ("use_cache", "use_mems")


def trace_network(model: nn.Module, tracing: Tracing, given: Mapping[str, Any] | None) -> Trace:
    """The programs of both modes, looked into, or one around lists of blocks.

    Raises:
        TraceError: the network cannot be traced as asked, there is no such list, or its blocks do
            not form a chain; says where, and what to write.

    """
    if tracing.blocks:
        try:
            return _around(model, tracing.blocks, tracing.concrete_args, given)
        except REFUSALS as error:  # the network's own, which wants more of its blocks than outputs
            raise TraceError(
                f"{type(model).__name__} cannot be run around {tracing.blocks}, as each of its "
                f"blocks begins a graph of its own: {error}"
            ) from error
    try:
        constants = tracing.concrete_args
        traced = trace_keeping_state(model, given or {}, tracing.leaf_modules, constants)
    except TraceError as refusal:
        return _around_found(model, tracing, given, refusal)
    traced = with_ambient_values(traced, model)
    paths = () if tracing.leaf_modules or given is None else hidden(model, traced)
    return _looked_into(model, tracing, given, traced, paths) if paths else traced


def _looked_into(
    model: nn.Module,
    tracing: Tracing,
    given: Mapping[str, Any] | None,
    traced: Trace,
    paths: Sequence[str],
) -> Trace:
    """The program around lists in modules that cannot be traced; else that which calls them."""
    refusal = TraceError(traced.whole[paths[0]])
    try:
        found = _around_found(model, tracing, given, refusal)
    except TraceError as error:
        if error is refusal:
            return traced
        return replace(traced, whole={**traced.whole, paths[0]: str(error)})
    inside = any(name.startswith(f"{path}.") for name in found.blocks for path in paths)
    return found if inside else traced


def _around_found(
    model: nn.Module, tracing: Tracing, given: Mapping[str, Any] | None, refusal: TraceError
) -> Trace:
    """The program around the lists of blocks that a call shows, where a trace was refused."""
    known = held(model)
    if any(hooks_are_heard(module, known) for module in model.modules()):
        raise refusal
    if given is None:
        hint = "Or give the arguments of one call, by which its lists of blocks are found: "
        why = refusal.__cause__ or refusal  # shapes that are tried may tell
        raise TraceError(f"{refusal} {hint}example_inputs=(x,).") from why
    constants = _without_cache(model, tracing.concrete_args, given)
    tensors, others = _arguments(model, given, constants)
    _check_named(model, tensors)
    try:
        lists = find_lists(model, {**others, **tensors})
    except Exception as error:  # the network's own, of inputs that it does not take
        raise refusal from error
    if not lists:
        raise refusal
    try:
        traced = _around(model, ", ".join(lists), constants, given)
    except TraceError as error:
        raise TraceError(f"{refusal} And around {', '.join(lists)}: {error}") from error
    reason = str(refusal).partition(". A network is compiled")[0]
    reason = re.sub(r"\S*/site-packages/", "", reason)
    return replace(traced, blocks=lists, untraced=reason)


def _without_cache(
    model: nn.Module, constants: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The constants, with caches of keys and values turned off unless they are asked for."""
    takes = inspect.signature(model.forward).parameters
    off = {name: False for name in CACHES if name in takes and name not in given}
    return {**off, **constants}


def _around(
    model: nn.Module, names: str, constants: Mapping[str, Any], given: Mapping[str, Any] | None
) -> Trace:
    """The program around the lists of these names, separated by commas."""
    paths = [path for name in names.split(",") for path in _items(model, name.strip())]
    if given is None:
        raise TraceError(
            f"blocks={names!r} needs the arguments of one call, to see how the blocks are called: "
            "pararealize(model, n, blocks=..., example_inputs=(tokens,))."
        )
    constants = _without_cache(model, constants, given)
    tensors, others = _arguments(model, given, constants)
    tensors = showing_masks(model, paths, tensors, others)
    seen = [
        observe(model, paths, {**others, **tensors}, training=training)
        for training in (True, False)
    ]
    _check(model, paths, seen)
    calls = _calls(model, seen, tuple(tensors), others)
    twin, values = quiet_copy(model), tuple(tensors.values())
    modes = zip(seen, (True, False), strict=True)
    found = gaps([Trials(calls, twin, values, each, training) for each, training in modes])
    program = written(inputs_of(model, tensors, others), calls, found, seen[-1].calls)
    return Trace(program, program)


def _items(model: nn.Module, path: str) -> tuple[str, ...]:
    lists = [n for n, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    if path not in lists or not model.get_submodule(path)._modules:
        raise TraceError(
            f"blocks={path!r}: {type(model).__name__} has no list of modules of that "
            f"name; it has {', '.join(map(repr, filter(None, lists[:8]))) or 'none'}."
        )
    return tuple(f"{path}.{name}" for name in model.get_submodule(path)._modules)


def _arguments(
    model: nn.Module, given: Mapping[str, Any], constants: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors among the arguments, random ones where only their shape is known, and others."""
    holding = {k for k, v in given.items() if isinstance(v, TensorSpec) or tensors_of(v)}
    tensors = {k: v for k, v in given.items() if k in holding}  # or lists of them, as images are
    others = {k: v for k, v in given.items() if k not in tensors} | dict(constants)
    return {k: _number(model, v) for k, v in tensors.items()}, others


def _number(model: nn.Module, value: Any) -> Any:
    """What is given as it is; of a spec some numbers, of which zeros would show too little."""
    if not isinstance(value, TensorSpec):
        return value
    device = device_of(model)
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    numbers = torch.Generator().manual_seed(0)
    if value.dtype.is_floating_point or value.dtype.is_complex:
        return torch.randn(value.shape, dtype=value.dtype, generator=numbers).to(device)
    most = 2 if value.dtype == torch.bool else min(tables, default=1)
    return torch.randint(most, value.shape, generator=numbers).to(device, value.dtype)


def _check_named(model: nn.Module, arguments: Iterable[str]) -> None:
    """Raise where a forward takes tensors by no names of its own."""
    starred = next((name for name in arguments if name.startswith("*")), None)
    if starred is None:
        return
    heaviest = max(
        model.named_children(), key=lambda pair: sum(p.numel() for p in pair[1].parameters())
    )[0]
    kind = type(model).__name__
    raise TraceError(
        f"{kind}.forward takes {starred}, and what it does with that cannot be traced: name the "
        "arguments that it is given, def forward(self, x, mask=None); or, if it only hands them "
        f"on, compile what is inside, pararealize(model.{heaviest}, n)."
    )


def _check(model: nn.Module, paths: Sequence[str], seen: Sequence[Observation]) -> None:
    train, evaluate = ([call.path for call in each.calls] for each in seen)
    if len(set(evaluate)) < len(set(paths)):
        raise TraceError(
            f"of the {len(paths)} blocks {paths[0]} … {paths[-1]} the network called "
            f"{len(set(evaluate))}: each has to run."
        )
    if train != evaluate:
        raise TraceError(
            f"in train mode the network calls {len(train)} blocks, and {len(evaluate)} in eval "
            f"mode: it leaves some out at random. {how_to_keep(model)}"
        )


def _calls(
    model: nn.Module,
    seen: Sequence[Observation],
    tensors: tuple[str, ...],
    others: Mapping[str, Any],
) -> Calls:
    blocks = tuple(call.path for call in seen[-1].calls)
    given = tuple(given_of(call.result, call.taken) for call in seen[-1].calls)
    known = {path: plain_attributes(model.get_submodule(path), PLAIN) for path in blocks}
    writes = any(observation.origins.written for observation in seen)
    pairs = zip(*(each.calls for each in seen), strict=True)  # of train and of eval mode
    expected = tuple(
        expected_of(pair[0].path, [(call.args, call.kwargs) for call in pair]) for pair in pairs
    )
    return Calls(blocks, tensors, tuple(others.items()), given, known, writes, expected)
