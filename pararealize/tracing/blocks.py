"""Blocks: the programs of a network whose list of blocks is named, where a trace cannot look in.

    stem ── block 0 ── block 1 ── … ── block L-1 ── head
      └─ context (masks, positions) ─┴──────┘

The network's own forward runs once on the example inputs to see how each block is called.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.errors import TraceError
from pararealize.ir.chain import TensorSpec
from pararealize.ir.plan import Tracing
from pararealize.ir.program import FIXED, Operation, Program, Ref
from pararealize.propagators.block_list import Context, Head, Item, Stem, leaves_of_call, replaced
from pararealize.tracing.ambient import with_ambient_values
from pararealize.tracing.mutation import trace_keeping_state
from pararealize.tracing.trace import Trace

#: Arguments that a program can hold.
PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)

#: How a block was called, and what it gave.
_Call = tuple[Any, Any, Any]


def trace_network(model: nn.Module, tracing: Tracing, given: Mapping[str, Any] | None) -> Trace:
    """The programs of both modes, looked into, or one around a list of blocks.

    Raises:
        TraceError: the network cannot be traced as asked, there is no such list, or its blocks do
            not form a chain; says where, and what to write.

    """
    path, constants = tracing.blocks, tracing.concrete_args
    if not path:
        traced = trace_keeping_state(model, given or {}, tracing.leaf_modules, constants)
        return with_ambient_values(traced, model)
    blocks = _find(model, path)
    if given is None:
        raise TraceError(
            f"blocks={path!r} needs the arguments of one call, to see how the blocks are called: "
            "pararealize(model, n, blocks=..., example_inputs=(tokens,))."
        )
    tensors = {k: v for k, v in given.items() if isinstance(v, (Tensor, TensorSpec))}
    others = {k: v for k, v in given.items() if k not in tensors} | dict(constants)
    shaped = {k: v for k, v in tensors.items() if isinstance(v, TensorSpec)}
    zeros = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in shaped.items()}
    calls = _run(model, blocks, {**others, **tensors, **zeros})
    around = {
        "blocks": blocks,
        "arguments": tuple(tensors),
        "constants": tuple(others.items()),
        "extras": _extras(blocks, [result for *_, result in calls]),
    }
    return _written(_inputs(model, tensors, others), blocks, calls, around)


def _find(model: nn.Module, path: str) -> tuple[str, ...]:
    lists = [n for n, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    if path not in lists or len(model.get_submodule(path)._modules) < 2:
        raise TraceError(
            f"blocks={path!r}: {type(model).__name__} has no list of two or more modules of that "
            f"name; it has {', '.join(map(repr, filter(None, lists[:8]))) or 'none'}."
        )
    return tuple(f"{path}.{name}" for name in model.get_submodule(path)._modules)


def _inputs(
    model: nn.Module, tensors: Mapping[str, Any], others: Mapping[str, Any]
) -> list[Operation]:
    found = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            continue
        name, default = parameter.name, parameter.default
        args = () if default is parameter.empty else (default,)
        fixed = {} if name in tensors else {FIXED: others.get(name, *args)}
        found.append(Operation(name, "input", name, args, fixed))
    return found


def _run(model: nn.Module, blocks: tuple[str, ...], given: Mapping[str, Any]) -> list[_Call]:
    """The calls of the network's blocks, where a copy of it runs in eval mode."""
    twin, calls = copy.deepcopy(model).eval(), list[_Call]()

    def noted(path: str) -> Any:
        block = twin.get_submodule(path)

        def act(*args: Any, **kwargs: Any) -> Any:
            _check(calls, path, args, kwargs)
            calls.append((args, kwargs, block(*args, **kwargs)))
            return calls[-1][-1]

        return act

    acts = [noted(path) for path in blocks]
    with torch.no_grad(), torch.random.fork_rng(devices=[]), replaced(twin, blocks, acts):
        twin(**given)
    if len(calls) != len(blocks):
        raise TraceError(
            f"of the {len(blocks)} blocks {blocks[0]} … {blocks[-1]} the network called "
            f"{len(calls)}: each has to run once, one after another."
        )
    return calls


def _check(calls: list[_Call], path: str, args: Any, kwargs: Any) -> None:
    odd = [v for v in (*args, *kwargs.values()) if not isinstance(v, (*PLAIN, Tensor, tuple, list))]
    if odd:
        raise TraceError(
            f"the block {path} is given a {type(odd[0]).__name__}, which is no tensor: turn it "
            "off, as concrete_args={'use_cache': False} does for a cache of keys and values."
        )
    leaves = leaves_of_call(args, kwargs)
    if not leaves or (calls and leaves[0] is not state_of(calls[-1][-1])):
        raise TraceError(
            f"the block {path} is not given what the one before it gave, so that the blocks are "
            "no chain: name another list of blocks."
        )


def _extras(blocks: tuple[str, ...], results: list[Any]) -> int:
    """Where blocks give tuples, how many ``None`` follow the state; -1 where they give tensors."""
    kinds = {len(r) - 1 if isinstance(r, (tuple, list)) else -1 for r in results}
    more = [v for r in results if isinstance(r, (tuple, list)) for v in r[1:] if v is not None]
    if len(kinds) > 1 or more:
        raise TraceError(
            f"the blocks {blocks[0]} … {blocks[-1]} give more than one tensor, of which only the "
            "first could go on: turn the others off, as concrete_args={'output_attentions': False}."
        )
    return kinds.pop()


def state_of(result: Any) -> Any:
    """The state in what a block gives: the tensor, or the first of a tuple."""
    return result[0] if isinstance(result, (tuple, list)) and result else result


def _written(
    inputs: list[Operation], blocks: tuple[str, ...], calls: list[_Call], around: dict[str, Any]
) -> Trace:
    reads = tuple(Ref(name) for name in around["arguments"])
    positions = _positions(calls)
    operations = [*inputs, *_context(positions, around, reads)]
    operations.append(Operation("stem", "network", Stem(**around), reads))
    state = "stem"
    for path, (args, kwargs, result) in zip(blocks, calls, strict=True):
        name = path.replace(".", "_")
        first = leaves_of_call(args, kwargs)[0]
        refs = {
            id(first): Ref(state),
            **{key: Ref(f"context_{i}") for i, key in enumerate(positions)},
        }
        named = {key: _refer(value, refs) for key, value in kwargs.items()}
        operations.append(
            Operation(name, "module", path, tuple(_refer(args, refs)), named, scope=path)
        )
        state = name
        if result is not state_of(result):
            state = f"{name}_state"
            operations.append(Operation(state, "function", state_of, (Ref(name),), scope=path))
    operations.append(Operation("head", "network", Head(**around), (Ref(state), *reads)))
    operations.append(Operation("output", "output", "output", (Ref("head"),)))
    program = Program(tuple(operations))
    return Trace(program, program)


def _positions(calls: list[_Call]) -> dict[int, tuple[int, int]]:
    """For every tensor that blocks are given besides the state, one call and leaf where it is."""
    found: dict[int, tuple[int, int]] = {}
    for block, (args, kwargs, _) in enumerate(calls):
        for leaf, value in enumerate(leaves_of_call(args, kwargs)[1:], start=1):
            found.setdefault(id(value), (block, leaf))
    return found


def _context(
    positions: Mapping[int, tuple[int, int]], around: dict[str, Any], reads: tuple[Ref, ...]
) -> list[Operation]:
    if not positions:
        return []
    whole = Context(**around, positions=tuple(positions.values()))
    given, count = (Ref("context"),), len(positions)
    items = [Operation(f"context_{i}", "context", Item(i), given) for i in range(count)]
    return [Operation("context", "context", whole, reads), *items]


def _refer(value: Any, refs: Mapping[int, Ref]) -> Any:
    """The arguments with references in place of tensors."""
    if isinstance(value, Tensor):
        return refs[id(value)]
    if isinstance(value, (tuple, list)):
        return tuple(_refer(item, refs) for item in value)
    if isinstance(value, dict):
        return {key: _refer(item, refs) for key, item in value.items()}
    return value
