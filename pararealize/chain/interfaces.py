"""Interfaces: where a program may be cut, by the values that are live there."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise

from torch import nn

from pararealize.chain.derivatives import derivative_spans
from pararealize.chain.infinite import may_be_infinite
from pararealize.chain.layers import LayerBuilder, module_path
from pararealize.chain.sizes import with_sizes_recomputed
from pararealize.errors import CutError
from pararealize.ir.chain import Chain, Interface, Profile, State
from pararealize.ir.program import AMBIENT, Program
from pararealize.tracing.aliasing import parting
from pararealize.tracing.trace import Trace


def live_values(program: Program, width: int) -> dict[int, tuple[str, ...]]:
    """Positions (just after an operation) crossed by at most ``width`` values, with those values.

    A value is live from its operation to its last use; position i lies before operation i. Network
    inputs, weights and mode flags are no values: every segment reads them for itself. What is used
    last stands last, so that a value which only passes by keeps its place.
    """
    own = [(i, o) for i, o in enumerate(program) if o.kind not in AMBIENT]
    last = {name: i for i, operation in own for name in operation.uses}
    found: dict[int, tuple[str, ...]] = {}
    live: dict[str, int] = {}
    for i, operation in own:
        if operation.kind == "output":
            continue
        live[operation.name] = last.get(operation.name, -1)
        live = {name: end for name, end in live.items() if end > i}
        if 0 < len(live) <= width:
            found[i + 1] = tuple(sorted(live, key=live.__getitem__))
    return found


def build_chain(model: nn.Module, traced: Trace, profile: Profile, width: int = 1) -> Chain:
    """The chain of layers of a traced and profiled network.

    Interfaces cross at most ``width`` values, all of them tensors and at least one
    of real or complex numbers, and exist in both the train and the eval program. None parts values
    that share memory on which the network writes. Sizes are none of the values.
    """
    traced = with_sizes_recomputed(traced, model, profile, width, live_values)
    train = _legal(traced.train, profile, width, _parting(traced.train, model))
    if traced.train is traced.eval:
        pairs = [(live, live, i, i) for i, live in train.items()]
    else:
        parts = _parting(traced.eval, model)
        evaluate = {i: v for i, v in live_values(traced.eval, width).items() if not parts(i, v)}
        pairs = _matched(traced, train, evaluate)
    ends = sorted(module_ends(traced.train).items(), key=lambda end: len(end[0]))
    makers = {i: path for path, i in ends}  # the innermost of those that end there
    states: dict[State, State] = {}  # equal states are one object, which is cheap to compare
    interfaces = []
    for values in pairs:
        live, _, stop, _ = values
        specs = (profile.specs[value] for value in live)
        state = tuple(spec for spec in specs if spec is not None)  # as none of them is
        name, module = traced.train.operations[stop - 1].name, makers.get(stop - 1, "")
        interfaces.append(Interface(name, module, *values, states.setdefault(state, state)))
    return _chain(model, traced, profile, tuple(interfaces))


def _chain(
    model: nn.Module, traced: Trace, profile: Profile, interfaces: tuple[Interface, ...]
) -> Chain:
    stops = [0, *(i.stop for i in interfaces), len(traced.train)]
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    builder = LayerBuilder(model, traced.train, profile)
    around = pairwise((None, *interfaces, None))
    layers = tuple(
        builder(*span, *ends) for span, ends in zip(pairwise(stops), around, strict=True)
    )
    programs = (traced.train,) if traced.train is traced.eval else (traced.train, traced.eval)
    infinite = may_be_infinite(programs, model)
    named = (profile, layers, interfaces, sizes, traced.whole)
    return Chain(traced.train, traced.eval, *named, infinite=infinite)


def _parting(program: Program, model: nn.Module) -> Callable[[int, Sequence[str]], bool]:
    """Whether a position would part memory that is written, or a value from a derivative by it."""
    memory, spans = parting(program, model), derivative_spans(program)
    return lambda i, live: memory(i, live) or any(first < i <= last for first, last in spans)


def _legal(
    program: Program, profile: Profile, width: int, parts: Callable[[int, Sequence[str]], bool]
) -> dict[int, tuple[str, ...]]:
    legal = {}
    for position, live in live_values(program, width).items():
        specs = [profile.specs[name] for name in live]
        floating = any(s is not None and s.differentiable for s in specs)
        if program.operations[position].kind == "output" or parts(position, live):
            continue
        if None not in specs and floating:
            legal[position] = live
    return legal


def _matched(
    traced: Trace, train: Mapping[int, tuple[str, ...]], evaluate: Mapping[int, tuple[str, ...]]
) -> list[tuple[tuple[str, ...], tuple[str, ...], int, int]]:
    """Interfaces of the train program that the eval program has as well, in order in both.

    Of each the live values and the position in both programs.
    """
    train_keys, eval_keys = _keys(traced.train), _keys(traced.eval)
    there = {tuple(eval_keys[n] for n in live): (i, live) for i, live in evaluate.items()}
    pairs = []
    reached = 0
    for stop, live in train.items():
        eval_stop, eval_live = there.get(tuple(train_keys[n] for n in live), (0, ()))
        if eval_stop > reached:
            pairs.append((live, eval_live, stop, eval_stop))
            reached = eval_stop
    return pairs


def _keys(program: Program) -> dict[str, Hashable]:
    """What an operation is called independently of the mode: its kind, target, scope and count."""
    seen = Counter[Hashable]()
    keys: dict[str, Hashable] = {}
    for operation in program:
        key = (operation.kind, str(operation.target), operation.scope)
        seen[key] += 1
        keys[operation.name] = (*key, seen[key])
    return keys


def module_ends(program: Program) -> dict[str, int]:
    """For every module that ran, the position of the last operation it wrote."""
    names = ((i, module_path(o).split(".")) for i, o in enumerate(program) if module_path(o))
    return {".".join(path[:k]): i for i, path in names for k in range(1, len(path) + 1)}


def find_interface(chain: Chain, wanted: str) -> int:
    """Index of the interface after the module, or else the operation, called ``wanted``.

    ``"%name"`` is the operation of that name, whatever modules are called.

    Raises:
        CutError: nothing is called so, or no legal interface follows it.

    """
    by_name = {interface.name: i for i, interface in enumerate(chain.interfaces)}
    ends = module_ends(chain.train)
    if wanted not in ends:
        if wanted.removeprefix("%") in by_name:
            return by_name[wanted.removeprefix("%")]
        raise CutError(_unknown(wanted, chain, list(ends)))
    stop = ends[wanted] + 1
    for i, interface in enumerate(chain.interfaces):
        if interface.stop == stop:
            return i
    near = min(chain.interfaces, key=lambda i: abs(i.stop - stop), default=None)
    hint = f" The nearest legal interface is after {str(near)!r}." if near else ""
    raise CutError(
        f"the network cannot be cut after {wanted!r}: what is live there is neither one tensor nor "
        f"a few of them.{hint}"
    )


def _unknown(wanted: str, chain: Chain, names: list[str]) -> str:
    legal = list(dict.fromkeys(i.module for i in chain.interfaces if i.module))
    names = [name for name in names if name not in legal]
    near = difflib.get_close_matches(wanted, [*legal, *names], n=3) or legal[:3]
    hint = f"interfaces=[{', '.join(map(repr, near))}]" if near else "n=1"
    return f"interfaces: no module is called {wanted!r}. Write for example {hint}."
