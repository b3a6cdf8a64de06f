"""Trace: a module to the programs of its train and eval modes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pararealize.errors import TraceError
from pararealize.ir.program import Operation, Program, Ref
from pararealize.ir.reading import Read
from pararealize.propagators.shape_guards import ShapeGuards
from pararealize.tracing.copying import collection_paused
from pararealize.tracing.draft import Draft, Entered
from pararealize.tracing.globals_read import globals_read
from pararealize.tracing.reading import Found, looks_at_modes, reads_noted, reads_of, unnoted
from pararealize.tracing.recorder import UntraceableError, record
from pararealize.tracing.uncut import uncut


@dataclass(frozen=True)
class Trace:
    """The two modes of a network; the same object twice where one program serves both.

    ``whole`` says of each module that is called without looking into it why that is so, ``drafts``
    what the trace saw in train mode and, where that may differ, in eval mode, ``reads`` which
    attributes the others read, ``undecided`` that more would be known of the network if the shapes
    of inputs were. ``blocks`` are the lists of blocks that were found, as ``untraced`` says why the
    network's own forward cannot be looked into.
    """

    train: Program
    eval: Program
    whole: Mapping[str, str] = field(default_factory=dict)
    drafts: tuple[Draft, ...] = field(default=(), repr=False, compare=False)
    reads: tuple[Read, ...] = ()
    blocks: tuple[str, ...] = ()
    untraced: str = ""
    undecided: bool = False

    @property
    def guards(self) -> tuple[ShapeGuards | None, ...]:
        """What shapes decided in train mode and, where that may differ, in eval mode."""
        return tuple(draft.guards for draft in self.drafts)

    @property
    def entered(self) -> tuple[str, ...]:
        """Paths of the modules that the programs look into, the network itself left out."""
        events = (event for draft in self.drafts for event in draft.events)
        return tuple(dict.fromkeys(e.path for e in events if isinstance(e, Entered) and e.path))


def trace(
    model: nn.Module,
    given: Iterable[str] = (),
    leaves: Iterable[str | type] = (),
    constants: Mapping[str, Any] | None = None,
) -> Trace:
    """Programs of ``model`` in train and eval mode; its modes are left as they were.

    A module that cannot be recorded is called whole, the innermost one that stands in the way, and
    so are ``leaves``, names or classes of modules. Of the arguments that are not ``given``, flags,
    strings and ``None`` keep their defaults, as ``constants`` do their values.

    Raises:
        TraceError: the network's own forward code branches on data or uses what ``torch.fx``
            cannot record, or a name of ``leaves`` or ``constants`` is unknown.

    """
    modes = {name: module.training for name, module in model.named_modules()}
    fixed = {**_defaults(model, set(given)), **_known(model, constants or {})}
    values = given if isinstance(given, Mapping) else {}
    asked = find_leaves(model, leaves)
    try:
        with collection_paused():
            return _record_until_even(model, modes, asked, fixed, values)
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]


def _record_until_even(
    model: nn.Module,
    modes: Mapping[str, bool],
    asked: frozenset[str],
    fixed: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Trace:
    """Record, again with modules called whole that branch on a mode which is not the network's."""
    odd: dict[str, str] = {}
    while True:
        with reads_noted(model) as found:
            traced = _record_all(model, asked | odd.keys(), fixed, given, found)
        reads = reads_of(found, model, traced.train, traced.eval)
        more = {r.path for r in reads if r.mode is not None and modes[r.path] != modes[""]}
        if not more - odd.keys():
            outside = globals_read(model, ("", *traced.entered))
            return replace(traced, whole={**odd, **traced.whole}, reads=(*reads, *outside))
        odd |= dict.fromkeys(sorted(more), "Its mode, train or eval, is not the network's")


def _record_all(
    model: nn.Module,
    asked: frozenset[str],
    fixed: Mapping[str, Any],
    given: Mapping[str, Any],
    found: Found,
) -> Trace:
    """Record both modes, again after each kind of module that turned out to be untraceable.

    Where no forward looked at a mode, as ``found`` says, one program serves both as it is.
    """
    whole, undecided = uncut(model), False
    while True:
        known = {**dict.fromkeys(asked, "asked for"), **whole}
        try:
            drafts = []
            with unnoted(found):
                model.train()
            train, draft = record(model, known, fixed, given)
            drafts.append(draft)
            evaluate = train
            if looks_at_modes(model, found):
                with unnoted(found):
                    model.eval()
                evaluate, draft = record(model, known, fixed, given)
                drafts.append(draft)
        except UntraceableError as error:
            undecided |= error.shapes
            if not error.path:
                raise TraceError(_advice(model, error.reason)) from error
            kind = type(model.get_submodule(error.path))
            same = (name for name, module in model.named_modules() if type(module) is kind)
            whole |= dict.fromkeys(same, f"{kind.__name__} cannot be traced{error.reason}")
            continue
        undecided |= not given and any(o.writes for o in (*train, *evaluate))
        called = {o.target for o in (*train, *evaluate) if o.kind == "module"}
        reasons = {path: reason for path, reason in whole.items() if path in called}
        merged = train if evaluate is train else merge(train, evaluate)
        programs = (merged, merged) if merged else (train, evaluate)
        return Trace(*programs, reasons, tuple(drafts), undecided=undecided)


def find_leaves(model: nn.Module, leaves: Iterable[str | type]) -> frozenset[str]:
    """Paths of the modules that names or classes stand for.

    Raises:
        TraceError: the model has no such module.

    """
    modules = dict(model.named_modules())
    found: set[str] = set()
    for leaf in leaves:
        kind = leaf if isinstance(leaf, type) else ()
        paths = [name for name, m in modules.items() if name == leaf or isinstance(m, kind)]
        if not paths or "" in paths:
            near = difflib.get_close_matches(str(leaf), filter(None, modules), 3, 0.4)
            hint = f" Near it: {', '.join(map(repr, near))}." if near else ""
            raise TraceError(
                f"leaf_modules: {type(model).__name__} has no module {leaf!r} to call whole: write "
                f"names as in model.named_modules(), or classes.{hint}"
            )
        found.update(paths)
    return frozenset(found)


def _defaults(model: nn.Module, given: set[str]) -> dict[str, Any]:
    """Arguments that are not given and decide what runs: absent ones, flags and strings."""
    parameters = inspect.signature(model.forward).parameters.values()
    absent = (p for p in parameters if p.name not in given)
    return {p.name: p.default for p in absent if isinstance(p.default, (bool, str, type(None)))}


def _known(model: nn.Module, constants: Mapping[str, Any]) -> Mapping[str, Any]:
    signature = inspect.signature(model.forward)
    unknown = [name for name in constants if name not in signature.parameters]
    if unknown:
        raise TraceError(
            f"concrete_args: {type(model).__name__}.forward{signature} has no argument "
            f"{unknown[0]!r}."
        )
    return constants


def _advice(model: nn.Module, reason: str) -> str:
    lists = [(len(m), n) for n, m in model.named_modules() if n and isinstance(m, nn.ModuleList)]
    blocks = f" Or name its list of blocks: blocks={max(lists)[1]!r}." if lists else ""
    return (
        f"{type(model).__name__} cannot be traced{reason}. A network is compiled from one graph, "
        "so its own forward may not branch or loop on tensor values: move that code into a "
        "sub-module, which is then called whole; replace a branch by torch.where(condition, a, "
        "b); put it in a function f kept whole with torch.fx.wrap('f'); or fix the argument that "
        "decides, concrete_args={'name': value}." + blocks
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
        if (a.name, a.kind, a.target) != (b.name, b.kind, b.target) or a.recomputed != b.recomputed:
            return None
        mine, form = tree_flatten((a.args, dict(a.kwargs)))
        theirs, other_form = tree_flatten((b.args, dict(b.kwargs)))
        flagged = [x is True and y is False for x, y in zip(mine, theirs, strict=False)]
        pairs = zip(mine, theirs, flagged, strict=False)
        if form != other_form or not all(known or _is_same(x, y) for x, y, known in pairs):
            return None
        flag = Ref(f"training_of_{a.scope.replace('.', '_') or 'root'}")
        if any(flagged):
            flags[flag.name] = Operation(flag.name, "training", a.scope, scope=a.scope)
        leaves = [flag if known else x for x, known in zip(mine, flagged, strict=True)]
        args, kwargs = tree_unflatten(leaves, form)
        writes = tuple(dict.fromkeys((*a.writes, *b.writes)))
        operations.append(replace(a, args=args, kwargs=kwargs, writes=writes))
    return Program(tuple(flags.values()) + tuple(operations))


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))
