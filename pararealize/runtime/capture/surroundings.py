"""Surroundings: what a graph has taken over from Python, and cannot follow when it changes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.runtime.values.pytree import tensors_of

#: Dictionaries of modules in which hooks are kept; numbers of hooks are never used twice.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: Plain values that a layer's forward may read.
PLAIN = (bool, int, float, str, type(None))


@final
class Surroundings:
    """Modules, memory of weights and buffers, modes, plain attributes and hooks, as they are now.

    Numbers in that memory may change, and are followed. The tensors are held, so that nothing else
    is put where a graph reads. Where a step ``trains``, it counts which of them want gradients.
    """

    def __init__(self, modules: Iterable[nn.Module], *, trains: bool) -> None:
        parts = tuple(dict.fromkeys(part for each in modules for part in each.modules()))
        self._held = tuple(_named(parts, "_parameters", "_buffers"))
        self._children = tuple(_named(parts, "_modules"))
        self._hooks = tuple(vars(part)[name] for part in parts for name in HOOKS)
        self._readers = tuple(map(_reader, parts))
        values = tuple(chain.from_iterable(map(dict.values, self._held)))
        self._tensors = tuple(value for value in values if value is not None)
        self._trained = self._tensors if trains else ()
        self._ids = list(map(id, values))
        self._memory = list(map(Tensor.data_ptr, self._tensors))
        self._wanted = list(map(_WANTS, self._trained))
        self._weight_hooks = self._hooks_of_weights()
        self._tree = _identities(self._children)
        self._hooked = list(chain.from_iterable(self._hooks))
        self._plain = self._values()

    def _hooks_of_weights(self) -> list[Any]:
        return [hooks and tuple(hooks) for hooks in map(_HOOKS, self._trained)]

    def _values(self) -> list[Any]:
        return [read(attributes) for read, attributes in self._readers]

    def change(self) -> str:
        """What a graph would miss, or nothing."""
        if _identities(self._children) != self._tree:
            return "a module was replaced"
        if _identities(self._held) != self._ids:
            return "a weight or buffer lies elsewhere: it was replaced"
        if list(map(Tensor.data_ptr, self._tensors)) != self._memory:
            return "a weight or buffer lies elsewhere: it was moved"
        if list(map(_WANTS, self._trained)) != self._wanted:
            return "a weight was frozen, or is trained again"
        hooked = list(chain.from_iterable(self._hooks))
        if hooked != self._hooked or self._hooks_of_weights() != self._weight_hooks:
            return "a hook was added or removed"
        try:
            same = self._values() == self._plain
        except KeyError:
            same = False
        return "" if same else "a mode or an attribute of a module was changed"


#: Whether a tensor wants a gradient, and its hooks.
_WANTS, _HOOKS = attrgetter("requires_grad"), attrgetter("_backward_hooks")


def _named(parts: Iterable[nn.Module], *names: str) -> Iterable[dict[str, Any]]:
    """Dictionaries of modules that hold something."""
    return (vars(part)[name] for part in parts for name in names if vars(part)[name])


def _identities(dicts: Iterable[dict[str, Any]]) -> list[int]:
    return list(map(id, chain.from_iterable(map(dict.values, dicts))))


#: What every module has.
_EMPTY = vars(nn.Module())


def _reader(module: nn.Module) -> tuple[Any, dict[str, Any]]:
    """What reads the mode of a module and its plain attributes."""
    attributes = vars(module)
    known = _EMPTY.keys() - {"training"}
    plain = (n for n, v in attributes.items() if isinstance(v, PLAIN) and n not in known)
    names = [name for name in plain if not name.startswith("_")]
    return itemgetter(*names), attributes


def autocast_of(values: Any) -> tuple[str, bool, torch.dtype]:
    """The kind of device of some tensors, and whether autocast is on there, in which precision."""
    kind = next((tensor.device.type for tensor in tensors_of(values)), "cpu")
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def autocast_without_cache(values: Any) -> torch.autocast:
    """A block in the precision in force, in which no weight that was cast on a lane is kept.

    Another lane would read it without waiting.
    """
    kind, enabled, dtype = autocast_of(values)
    return torch.autocast(kind, dtype, enabled, cache_enabled=False)
