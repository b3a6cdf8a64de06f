"""Canonical pieces: layers under names that all pieces of their structure have."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, final

from torch import Tensor, nn

from pararealize.ir.program import Operation, Segment
from pararealize.propagators.compiled import function_of, source_of
from pararealize.propagators.fine import Fine
from pararealize.propagators.folded import Folds
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.memory import is_overwritten
from pararealize.propagators.paths import submodule
from pararealize.propagators.propagator import Propagator
from pararealize.propagators.registered import Registered

#: Operations that name a module, or what is read of one; those that take the whole network.
NAMED, WHOLE = frozenset({"attribute", "training"}), frozenset({"network", "context"})
#: Runs one module as it is.
CALL = "def forward(self, *values, **named):\n    return self._modules['m0'](*values, **named)\n"
#: What every module has; and what its forward cannot read, but for its mode.
_EMPTY = vars(nn.Module()).keys() - {"training"}


@final
@dataclass(frozen=True)
class Canonical:
    """A function ``(view, *state, *inputs, *read)`` as code, with what it is called with.

    Attributes:
        label: how errors name it.
        source: the function; equal ones, with the same ``scope``, do the same.
        scope: names that the source uses.
        view: its modules, under short names; of equal structures it has equal ones.
        read: tensors and flags that it reads of the network, as they are today.
        prepared: what is done with its arguments before.

    """

    label: str
    source: str
    scope: dict[str, Any]
    view: nn.Module
    read: Callable[[], tuple[Any, ...]] = tuple
    prepared: Callable[[tuple[Any, ...]], tuple[Any, ...]] = tuple

    def function(self) -> Callable[..., Any]:
        """The function, with a code object of its own."""
        return function_of(self.source, dict(self.scope), self.label)

    @property
    def structure(self) -> Hashable:
        """What equal pieces have in common: code, and modules with their plain attributes."""
        names = tuple((name, id(value)) for name, value in sorted(self.scope.items()))
        return self.source, names, tuple(map(_signature, self.view.modules()))


def canonical(part: Propagator, folds: Folds | None = None) -> Canonical:
    """A piece of a network, or a network of its own; the others apply these.

    With ``folds``, normalisations that can be are part of the convolutions before them.
    """
    if isinstance(part, Fine):
        segment = replace(part.segment, inputs=part.inputs)
        return _of_segment(segment, part.root, part.label, part.function, folds)
    assert isinstance(part, Registered)
    module = part.module
    if not isinstance(module, Fresh):
        return of_module(module, part.label)
    found = _of_segment(module.segment, module, part.label, module.function, folds)
    return replace(found, prepared=module.spared)


def of_module(module: nn.Module, label: str) -> Canonical:
    """A module that is called whole."""
    return Canonical(label, CALL, {}, _view([module]))


def parts_in(parts: Iterable[Propagator]) -> list[Fine | Registered]:
    """Those of some propagators, and of those that they apply, which run layers themselves."""
    found = dict.fromkeys(_with_inner(parts))
    return [part for part in found if isinstance(part, (Fine, Registered))]


def _with_inner(parts: Iterable[Propagator]) -> Iterator[Propagator]:
    for part in parts:
        yield part
        yield from _with_inner(part.inner_parts())


def _of_segment(
    segment: Segment,
    root: nn.Module,
    label: str,
    function: Callable[..., Any],
    folds: Folds | None,
) -> Canonical:
    """Operations with the modules of a root.

    Those that take the whole network, or write on what they read of it, are like no others.
    """
    reads = [o for o in segment.operations if o.kind in NAMED]
    own = any(o.kind in WHOLE or o.recomputed is not None for o in segment.operations)
    if own or any(is_overwritten(segment, o.name, root) for o in reads):
        scope: dict[str, Any] = {"function": function}
        source = "def forward(self, *values):\n    return function(self._modules['m0'], *values)\n"
        return Canonical(label, source, scope, _view([root]))
    standing: dict[str, nn.Module] = {}
    if folds is not None:
        segment, standing = folds.of(segment, root)
    called = list(dict.fromkeys(o.target for o in segment.operations if o.kind == "module"))
    paths = [_path(operation) for operation in reads]
    view = _view(standing.get(path) or submodule(root, path) for path in called)
    short = _renamed(segment, {path: f"m{i}" for i, path in enumerate(called)})
    return Canonical(
        label,
        *source_of(short, view, label),
        view,
        lambda: tuple(attrgetter(path)(root) for path in paths),
    )


def _path(operation: Operation) -> str:
    if operation.kind == "attribute":
        return str(operation.target)
    return f"{operation.target}.training" if operation.target else "training"


def _renamed(segment: Segment, modules: dict[str, str]) -> Segment:
    """The segment with short names; what it reads of the network comes last of its arguments."""
    reads = [o.name for o in segment.operations if o.kind in NAMED]
    arguments = (*segment.state, *segment.features, *segment.inputs)
    own = [o for o in segment.operations if o.kind not in NAMED]
    names = {name: f"a{i}" for i, name in enumerate((*arguments, *reads))}
    names |= {o.name: f"v{i}" for i, o in enumerate(own)}
    operations = (_short(operation, names, modules) for operation in own)
    inputs = tuple(names[name] for name in (*segment.inputs, *reads))
    short = replace(segment, state=tuple(names[name] for name in segment.state), inputs=inputs)
    short = replace(short, features=tuple(names[name] for name in segment.features))
    return short.rewritten(operations, names)


def _short(operation: Operation, names: dict[str, str], modules: dict[str, str]) -> Operation:
    target = modules[operation.target] if operation.kind == "module" else operation.target
    return replace(
        operation.renamed(names), name=names[operation.name], target=target, scope="", draws=False
    )


def _view(modules: Iterable[nn.Module]) -> nn.Module:
    view = nn.Module()
    view._modules.update({f"m{i}": module for i, module in enumerate(modules)})
    return view


def _signature(module: nn.Module) -> Hashable:
    """The kind of a module, and all that its forward may read but for numbers of tensors."""
    own = vars(module)
    plain = tuple((n, _frozen(own[n])) for n in sorted(own.keys() - _EMPTY))
    held = (*module._parameters.items(), *module._buffers.items(), *module._modules.items())
    return type(module), plain, tuple((name, value is None) for name, value in held)


def _frozen(value: Any) -> Hashable:
    """A value to compare: plain ones by what they are, others by which they are."""
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(_frozen, value))
    plain = isinstance(value, (bool, int, float, str, type(None)))
    return (type(value), repr(value)) if plain else id(value)


@contextmanager
def bound(piece: Canonical, tensors: Sequence[Tensor]) -> Iterator[tuple[Any, ...]]:
    """A block in which a piece finds other tensors, as ``tensors_read`` gives its own ones.

    Gives what it reads besides: tensors come after those of the view.
    """
    given = iter(tensors)
    dicts: list[dict[str, Any]] = []
    for part in piece.view.modules():
        dicts += [part._parameters, part._buffers]
    before = [(held, dict(held)) for held in dicts]
    try:
        for held, old in before:
            for name, value in old.items():
                if value is not None:
                    held[name] = next(given)
        yield tuple(next(given) if isinstance(v, Tensor) else v for v in piece.read())
    finally:
        for held, old in before:
            held.update(old)


def tensors_read(view: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a view's modules as they are looked up now."""
    return [
        tensor
        for module in view.modules()
        for held in (module._parameters, module._buffers)
        for tensor in held.values()
        if tensor is not None
    ]
