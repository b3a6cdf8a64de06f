"""Hooks: acts around the layers that a program calls, and after the modules around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from pararealize.tracing.composites import FORWARDS


@dataclass(frozen=True)
class Acts:
    """What to do before and after a layer, before an unknown one, and after other modules.

    ``left`` makes, for the path of another module, what is done with what it gives.
    """

    before: Callable[..., None]
    after: Callable[..., None]
    unknown: Callable[..., None]
    left: Callable[[str], Callable[..., None]]


@final
class Called(nn.Module):
    """Stands for a module that takes no hooks, as scripted ones do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._call: Callable[..., Any] = module.__call__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        return self._call(*args, **kwargs)


@contextmanager
def hooked(
    root: nn.Module,
    layers: dict[str, nn.Module],
    others: Iterable[tuple[str, nn.Module]],
    acts: Acts,
) -> Iterator[None]:
    """A block in which modules act; what stands for a scripted one is put into ``layers``."""
    handles = []
    scripted = _scripted(root, layers)
    for (parent, name), module in scripted.items():
        parent._modules[name] = Called(module)
    layers |= {path: root.get_submodule(path) for path in layers if scripted}
    try:
        for module in dict.fromkeys(layers.values()):
            pre = module.register_forward_pre_hook(acts.before, with_kwargs=True, prepend=True)
            handles += [pre, module.register_forward_hook(acts.after, with_kwargs=True)]
        for path, module in others:
            if path and is_layer(module):
                handles.append(module.register_forward_pre_hook(acts.unknown))
            elif path:
                handles.append(module.register_forward_hook(acts.left(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for (parent, name), module in scripted.items():
            parent._modules[name] = module


def _scripted(
    root: nn.Module, layers: dict[str, nn.Module]
) -> dict[tuple[nn.Module, str], nn.Module]:
    """Layers that take no hooks, by where they stand."""
    found: dict[tuple[nn.Module, str], nn.Module] = {}
    for path, module in layers.items():
        if isinstance(module, torch.jit.ScriptModule):
            parent, _, name = path.rpartition(".")
            found[root.get_submodule(parent), name] = module
    return found


def is_layer(module: nn.Module) -> bool:
    """Whether a trace calls it whole by itself: torch's modules, but for those that hold others."""
    around = (nn.Sequential, nn.ModuleList, nn.ModuleDict, *FORWARDS)
    return type(module).__module__.startswith("torch.nn") and not isinstance(module, around)
