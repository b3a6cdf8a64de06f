"""Surroundings: what a graph has taken over from Python, and cannot follow when it changes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.runtime.values.pytree import tensors_of

#: Dictionaries of modules in which hooks are kept; numbers of hooks are never used twice.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: Plain values that a layer's forward may read: compared, others by identity.
PLAIN = (bool, int, float, str, type(None))


@final
class Surroundings:
    """Modules, memory of weights and buffers, modes, plain attributes and hooks, as they are now.

    Numbers in that memory may change, and are followed. The tensors are held, so that nothing else
    is put where a graph reads.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = tuple(dict.fromkeys(part for each in modules for part in each.modules()))
        self._dicts = tuple(
            vars(module)[name]
            for module in self._modules
            for name in ("_parameters", "_buffers")
            if vars(module)[name]
        )
        self._children = tuple(vars(m)["_modules"] for m in self._modules if vars(m)["_modules"])
        self._hooks = tuple(vars(module)[name] for module in self._modules for name in HOOKS)
        self._attributes = tuple(_reader(module) for module in self._modules)
        self._tensors = tuple(chain.from_iterable(map(dict.values, self._dicts)))
        self._memory = self._pointers()
        self._tree = self._parts()
        self._hooked = tuple(chain.from_iterable(self._hooks))
        self._plain = self._values()

    def _pointers(self) -> list[Any]:
        values = chain.from_iterable(map(dict.values, self._dicts))
        return [None if v is None else (Tensor.data_ptr(v), v.requires_grad) for v in values]

    def _parts(self) -> list[int]:
        return list(map(id, chain.from_iterable(map(dict.values, self._children))))

    def _values(self) -> list[Any]:
        return [read(attributes) for read, attributes in self._attributes]

    def change(self) -> str:
        """What a graph would miss, or nothing."""
        try:
            if self._parts() != self._tree:
                return "a module was replaced"
            if self._pointers() != self._memory:
                return "a weight or buffer lies elsewhere, or wants gradients otherwise"
            if self._values() != self._plain:
                return "a mode or an attribute of a module was changed"
        except KeyError:
            return "an attribute of a module is gone"
        if tuple(chain.from_iterable(self._hooks)) != self._hooked:
            return "a hook was added or removed"
        return ""


def _reader(module: nn.Module) -> tuple[Any, dict[str, Any]]:
    """What reads the mode of a module and its plain attributes."""
    attributes = vars(module)
    names = [n for n, v in attributes.items() if isinstance(v, PLAIN) and not n.startswith("_")]
    return itemgetter("training", *(n for n in names if n != "training")), attributes


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
