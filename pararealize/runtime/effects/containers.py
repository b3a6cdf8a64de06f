"""Containers: what a module's forward may write into, remembered and put back.

Lists, dictionaries, sets, queues and namespaces in a module's attributes, in its class, and among
the globals and closures of what runs when it is called.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from types import ModuleType, SimpleNamespace
from typing import Any, final

from torch import Tensor, nn

from pararealize.runtime.effects.functions import enclosed, functions_of, names_in

#: What can be written into and looked through.
CONTAINERS = (list, dict, set, deque, SimpleNamespace, bytearray)
#: Attributes that every module has.
OWN = frozenset(nn.Module().__dict__)
#: Packages whose objects are no state of a network's: what they hold is their own.
FOREIGN = frozenset({"torch", "builtins", "numpy", "functools", "logging"})
#: How deep containers in containers are looked through.
DEPTH = 4


#: Where a name is bound: a dictionary of globals or a class.
Scope = MutableMapping[str, Any] | type


@final
class Contents:
    """What is in a module's containers, and what names outside it are bound to.

    Args:
        module: whose.
        seen: containers that are remembered already, by their identity, and how deep; for modules
            that share some, as those of a library share a configuration.

    """

    def __init__(self, module: nn.Module, seen: dict[int, int] | None = None) -> None:
        self._seen = {} if seen is None else seen
        self.kept: dict[int, tuple[str, Any, Any]] = {}
        self.tensors: list[tuple[str, Tensor, int]] = []
        self.bound: dict[tuple[int, str], tuple[Scope, Any]] = {}
        for scope, name, value in outer_names(module):
            self.bound[id(scope), name] = scope, value
            self._keep(name, value, DEPTH)
        for name, value in (*module.__dict__.items(), *_enclosed(module)):
            if name not in OWN:
                self._keep(name, value, DEPTH)

    def _keep(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            self.tensors.append((name, value, value._version))
        elif isinstance(value, tuple):
            for item in value:
                self._keep(name, item, depth)
        elif depth and is_container(value) and self._is_new(value, depth):
            self._seen[id(value)] = depth
            self.kept[id(value)] = name, value, contained(value)
            for item in _items(value):
                self._keep(name, item, depth - 1)

    def _is_new(self, value: Any, depth: int) -> bool:
        return id(value) not in self.kept and self._seen.get(id(value), 0) < depth

    def changed(self) -> dict[Any, str]:
        """The containers and names that hold something else now, and how they are called."""
        found: dict[Any, str] = {
            key: name for key, (name, value, old) in self.kept.items() if not _same(value, old)
        }
        for key, (scope, value) in self.bound.items():
            if _scope(scope).get(key[1]) is not value:
                found[key] = key[1]
        return found | {id(t): name for name, t, version in self.tensors if t._version != version}

    def restore(self) -> None:
        """Put everything back, into the same containers."""
        for _, value, old in self.kept.values():
            if not _same(value, old):
                _refill(value, old)
        for (_, name), (scope, value) in self.bound.items():
            if _scope(scope).get(name) is not value:
                setattr(scope, name, value) if isinstance(scope, type) else scope.update(
                    {name: value}
                )


def is_container(value: Any) -> bool:
    """Whether it can be written into: torch's and Python's own kinds, and plain objects."""
    if isinstance(value, CONTAINERS):
        return True
    kind = type(value)
    foreign = kind.__module__.partition(".")[0] in FOREIGN
    code = callable(value) or isinstance(value, (nn.Module, Tensor, type, ModuleType))
    return not foreign and not code and hasattr(value, "__dict__")


def _scope(scope: Scope) -> Mapping[str, Any]:
    return vars(scope) if isinstance(scope, type) else scope


def outer_names(module: nn.Module) -> Iterator[tuple[Scope, str, Any]]:
    """Names of a module's class, and globals that what it runs knows, that are no code."""
    for kind in type(module).__mro__[: type(module).__mro__.index(nn.Module)]:
        for name, value in vars(kind).items():
            constant = name.startswith("__") or callable(value) or inspect.isdatadescriptor(value)
            if not constant and not kind.__module__.startswith("torch."):
                yield kind, name, value
    for function in functions_of(module):
        scope = function.__globals__
        for name in names_in(function.__code__):
            value = scope.get(name)
            code = callable(value) or isinstance(value, ModuleType)
            if name in scope and (not code or isinstance(value, Tensor)):
                yield scope, name, value


def _enclosed(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for function in functions_of(module):
        yield from enclosed(function)


def contained(value: Any) -> Any:
    """What a container or an object holds, as a plain list, dictionary or set.

    A class may have methods of its own for what is in it, such as a table whose entries are built
    when they are read: they are not called, as they are the network's to call.
    """
    if _is_record(value):
        return dict(vars(value))
    kind = _kind(value)
    if issubclass(kind, dict):
        return {key: dict.__getitem__(value, key) for key in kind.__iter__(value)}
    return set(set.__iter__(value)) if kind is set else list(kind.__iter__(value))


def _is_record(value: Any) -> bool:
    return not isinstance(value, CONTAINERS) or isinstance(value, SimpleNamespace)


def _kind(value: Any) -> Any:
    """The kind of container among Python's own, whose methods are known."""
    return next(kind for kind in (OrderedDict, *CONTAINERS) if isinstance(value, kind))


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, bytearray):
        return ()
    found = contained(value)
    return found.values() if isinstance(found, dict) else found


def _same(value: Any, old: Any) -> bool:
    """Whether the container holds the very objects that it held."""
    now = contained(value)
    if isinstance(now, dict):
        return now.keys() == old.keys() and all(now[key] is old[key] for key in old)
    if isinstance(now, set):
        return bool(now == old)
    return len(now) == len(old) and all(a is b for a, b in zip(now, old, strict=True))


def _refill(value: Any, old: Any) -> None:
    target = vars(value) if _is_record(value) else value
    kind = _kind(target)
    kind.clear(target)
    if issubclass(kind, dict):
        for key, item in old.items():
            kind.__setitem__(target, key, item)
    else:
        (kind.update if kind is set else kind.extend)(target, old)


def tensors_inside(value: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """Tensors in a container and in those inside it."""
    if isinstance(value, Tensor):
        yield value
    elif depth and (isinstance(value, tuple) or is_container(value)):
        for item in value if isinstance(value, tuple) else _items(value):
            yield from tensors_inside(item, depth - 1)


def attribute_tensors(attributes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Plain attributes that are tensors."""
    return {n: v for n, v in attributes.items() if n not in OWN and isinstance(v, Tensor)}
