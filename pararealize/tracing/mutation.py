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

from pararealize.errors import TraceError
from pararealize.ir.program import Program, Ref
from pararealize.propagators.compiled import written_by
from pararealize.runtime.effects.statistics import buffer_copies
from pararealize.tracing.trace import Trace, trace

#: What ``torch.fx`` keeps constants under, in the module that it traces.
CONSTANT = "_tensor_constant"
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
    given, leaves = tuple(given), tuple(leaves)
    writers: dict[str, str] = {}
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
        if not written:
            return replace(traced, whole={**writers, **traced.whole})
        writers |= _owners(model, written, writers)


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

    @classmethod
    def of(cls, module: nn.Module) -> _Before:
        buffers = dict(module._buffers)
        versions = {name: b._version for name, b in buffers.items() if b is not None}
        return cls(module, dict(module.__dict__), buffers, versions)

    def changed(self) -> str | None:
        """The first buffer or attribute that is another one, or has been written on."""
        for name, buffer in self.module._buffers.items():
            old = self.buffers.get(name)
            if buffer is not old or (buffer is not None and buffer._version != self.versions[name]):
                return name
        now, old_values = self.module.__dict__, self.attributes
        names = (name for name in {**old_values, **now} if not name.startswith(CONSTANT))
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
    with buffer_copies(modules.values()):
        before = {path: _Before.of(module) for path, module in modules.items()}
        try:
            yield
        finally:
            changes = {path: old.changed() for path, old in before.items()}
            written |= {path: name for path, name in changes.items() if name is not None}
            for path in written:
                before[path].restore()


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
