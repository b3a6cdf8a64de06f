"""Mutation: modules whose ``forward`` writes on themselves are called whole.

A trace runs the ``forward`` once. What that does to a buffer or an attribute happens while it is
recorded, and is no operation of the graph: a counter would move when the network is compiled and
never again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pararealize.errors import TraceError
from pararealize.ir.program import Program, Ref
from pararealize.propagators.memory import written_by
from pararealize.runtime.effects.containers import Contents
from pararealize.runtime.effects.statistics import buffer_copies, is_torchs
from pararealize.tracing.rehearsal import rehearse
from pararealize.tracing.trace import Trace, trace

#: What ``torch.fx`` keeps constants under, in the module that it traces.
CONSTANT = "_tensor_constant"
#: And what torch's recurrent layers gather anew whenever they are called.
KEPT = (CONSTANT, "_flat_weight")
#: Methods and functions that give another view of the same numbers.
VIEWS = frozenset({"detach", "view", "getitem", "getattr", "squeeze", "unsqueeze", "flatten"})


def trace_keeping_state(
    model: nn.Module,
    given: Iterable[str] = (),
    leaves: Iterable[str | type] = (),
    constants: Mapping[str, Any] | None = None,
) -> Trace:
    """Trace a network with modules that write on themselves called whole; nothing moves.

    Raises:
        TraceError: the network cannot be traced, or its own ``forward`` writes on it.

    """
    given, leaves = given if isinstance(given, Mapping) else tuple(given), tuple(leaves)
    writers: dict[str, str] = {}
    _switch_modes(model)
    while True:
        written: dict[str, str] = {}
        try:
            with _watched(model, written):
                traced = trace(model, given, (*leaves, *writers), constants)
            found = _written_in(traced.train, model) | _written_in(traced.eval, model)
            written = found | written
        except Exception:  # what was written last time may be why: a value of another trace
            if not written:
                raise
        if written:
            writers |= _owners(model, written, writers)
            continue
        strays: dict[str, str] = {}
        if isinstance(given, Mapping):
            strays, traced = differing(model, traced, given)
        if not strays:
            return replace(traced, whole={**writers, **traced.whole})
        writers |= strays


def _switch_modes(model: nn.Module) -> None:
    """Let modules do once what they do when their mode changes, as dropping what they have cached.

    That is nothing that their forward writes.
    """
    modes = {module: module.training for module in model.modules()}
    model.train()
    model.eval()
    for module, training in modes.items():
        module.training = training


def differing(
    model: nn.Module, traced: Trace, given: Mapping[str, Any]
) -> tuple[dict[str, str], Trace]:
    """Modules that do something else with tensors than with a trace's values, and why.

    Where there are none, the trace with values in place of constants that stand for them.

    Raises:
        TraceError: the network's own forward does.

    """
    modes = {module: module.training for module in model.modules()}
    programs = [traced.train, traced.eval]
    try:
        with _watched(model, {}):
            for i, draft in enumerate(traced.drafts):
                model.train(i == 0)
                strays, left = rehearse(model, draft, given)
                if strays:
                    return _of_one_kind(model, strays), traced
                programs[i] = _with_values(programs[i], left)
    finally:
        for module, training in modes.items():
            module.training = training
    same = traced.train is traced.eval
    return {}, replace(traced, train=programs[0], eval=programs[0 if same else 1])


def _with_values(program: Program, left: Mapping[str, str]) -> Program:
    """A program with values in place of constants."""
    if not left:
        return program

    def value(leaf: Any) -> Any:
        return Ref(left.get(leaf.name, leaf.name)) if isinstance(leaf, Ref) else leaf

    kept = (operation for operation in program if operation.name not in left)
    return Program(
        tuple(
            replace(o, args=tree_map(value, o.args), kwargs=tree_map(value, dict(o.kwargs)))
            for o in kept
        )
    )


def _of_one_kind(model: nn.Module, strays: Mapping[str, str]) -> dict[str, str]:
    """With a module all others of its class, which most likely do the same."""
    (path, reason), *_ = strays.items()
    if not path:
        raise TraceError(
            f"{type(model).__name__} cannot be traced{reason}: move that code into a sub-module, "
            "which is then called whole, or fix the argument that decides, "
            "concrete_args={'name': value}."
        )
    kind = type(model.get_submodule(path))
    same = (name for name, module in model.named_modules() if name and type(module) is kind)
    return dict.fromkeys(same, f"{kind.__name__} cannot be traced{reason}")


def _owners(
    model: nn.Module, written: Mapping[str, str], known: Mapping[str, str]
) -> dict[str, str]:
    """Modules to call whole, by path, for attributes found written: their owners, or what is above.

    An owner that is called whole already was written on by the ``forward`` of one around it.
    """
    found: dict[str, str] = {}
    for path, name in written.items():
        owner = path
        while owner in known:
            owner = owner.rpartition(".")[0]
        if not owner:
            raise TraceError(
                f"{type(model).__name__}.forward writes on self.{f'{path}.{name}'.strip('.')}, "
                "which one graph cannot repeat: move that line into the forward of a sub-module "
                "that holds the attribute, which is then called whole."
            )
        kind = type(model.get_submodule(owner)).__name__
        found[owner] = f"{kind} writes on its {name!r} when it is called"
    return found


@dataclass(frozen=True)
class _Before:
    """A module's attributes and buffers, and how often these had been written on."""

    module: nn.Module
    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]
    versions: dict[str, int]
    contents: Contents | None

    @classmethod
    def of(cls, module: nn.Module) -> _Before:
        buffers = dict(module._buffers)
        versions = {name: b._version for name, b in buffers.items() if b is not None}
        contents = None if is_torchs(module) else Contents(module)
        return cls(module, dict(module.__dict__), buffers, versions, contents)

    def changed(self) -> str | None:
        """The first buffer or attribute that is another one, or has been written on."""
        for name, buffer in self.module._buffers.items():
            old = self.buffers.get(name)
            if buffer is not old or (buffer is not None and buffer._version != self.versions[name]):
                return name
        now, old_values = self.module.__dict__, self.attributes
        names = (name for name in {**old_values, **now} if not name.startswith(KEPT))
        return next((n for n in names if not _is_same(old_values.get(n), now.get(n))), None)

    def restore(self) -> None:
        """Undo what was written on attributes."""
        now = self.module.__dict__
        kept = {name: value for name, value in now.items() if name.startswith(CONSTANT)}
        now.clear()
        now.update(self.attributes | kept)


@contextmanager
def _watched(model: nn.Module, written: dict[str, str]) -> Iterator[None]:
    """Tell which modules the block writes on, and undo it."""
    scripted = torch.jit.ScriptModule  # which makes its methods anew for whoever asks
    modules = {k: m for k, m in model.named_modules() if not isinstance(m, scripted)}
    others = (m for m in model.modules() if isinstance(m, scripted))
    numbers = [(buffer, buffer.clone()) for m in others for buffer in m.buffers(recurse=False)]
    with buffer_copies(modules.values()):
        before = {path: _Before.of(module) for path, module in modules.items()}
        try:
            yield
        finally:
            changes = {path: old.changed() for path, old in before.items()}
            written |= _innermost(before)
            written |= {path: name for path, name in changes.items() if name is not None}
            for path, old in before.items():
                if old.contents is not None:
                    old.contents.restore()
                if changes[path] is not None:
                    old.restore()
            for buffer, values in numbers:
                buffer.detach().copy_(values)


def _innermost(before: Mapping[str, _Before]) -> dict[str, str]:
    """Modules that can reach a container which has changed, and no module inside which can."""
    holders: dict[Any, dict[str, str]] = {}
    for path, old in before.items():
        changed = {} if old.contents is None else old.contents.changed()
        for key, name in changed.items():
            holders.setdefault(key, {})[path] = name
    return {
        path: name
        for known in holders.values()
        for path, name in known.items()
        if not any(other != path and _is_inside(other, path) for other in known)
    }


def _is_inside(path: str, around: str) -> bool:
    return not around or path.startswith(f"{around}.")


def _is_same(old: Any, new: Any) -> bool:
    plain = isinstance(old, (int, float, str)) and type(old) is type(new)
    return old is new or (plain and bool(old == new))


def _written_in(program: Program, model: nn.Module) -> dict[str, str]:
    """Modules whose buffers or parameters the program's own operations write on."""
    views: dict[str, str] = {}
    found: dict[str, str] = {}
    for operation in program:
        first = operation.args[0] if operation.args else None
        if operation.kind == "attribute":
            views[operation.name] = operation.target
        elif isinstance(first, Ref) and first.name in views and operation.kind != "module":
            writes = bool(written_by(operation, model))
            if writes:
                found[operation.scope] = views[first.name].rpartition(".")[2]
            if writes or operation.call in VIEWS:
                views[operation.name] = views[first.name]
    return found
