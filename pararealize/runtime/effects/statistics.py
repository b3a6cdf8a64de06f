"""Statistics: what an evaluation moves in a network, kept still or moved back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: Packages whose modules move nothing but buffers, and draw nothing but in dropout.
OWN = ("torch.nn", "pararealize.propagators", "pararealize.layers")


@contextmanager
def frozen_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let nothing that an evaluation moves in the modules stay moved.

    BatchNorm still normalises by the batch; its running mean, variance and count stay, and so
    does what modules of the user's own keep in plain attributes.
    """
    modules = tuple(modules)
    if all(map(is_torchs, modules)):  # others may change the mode of their parts
        norms = nn.modules.batchnorm._NormBase  # which move nothing in eval mode
        modules = tuple(m for m in modules if m.training or not isinstance(m, norms))
    attributes = [(module, _attributes(module)) for module in modules]
    try:
        with buffer_copies(modules):
            yield
    finally:
        for module, values in attributes:
            _put_back(module, values)


@contextmanager
def buffer_copies(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the modules write on copies of their buffers, which are dropped afterwards.

    The buffers themselves are set aside rather than written back, so that a backward pass which
    needs them finds them unchanged.
    """
    kept: list[tuple[nn.Module, dict[str, Tensor | None]]] = []
    try:
        for module in modules:
            kept.append((module, dict(module._buffers)))
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.detach().clone()
        yield
    finally:
        for module, buffers in reversed(kept):  # a module met twice was kept whole at first
            for name, buffer in buffers.items():  # those of scripted modules are no dictionary
                module._buffers[name] = buffer


class Statistics:
    """What an evaluation may move in some modules, as it was."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (module, dict(module._buffers), _attributes(module))
            for module in dict.fromkeys(modules)
        ]
        buffers = (buffer for _, own, _ in self._kept for buffer in own.values())
        self._numbers = [(buffer, buffer.clone()) for buffer in buffers if buffer is not None]

    def restore(self) -> None:
        """Move everything back.

        Past autograd, which would take it for a change under the graphs of earlier calls: they hold
        the buffers, though training reads no number of them.
        """
        for buffer, numbers in self._numbers:
            buffer.data.copy_(numbers)
        for module, buffers, attributes in self._kept:
            _put_back(module, attributes)
            module._buffers.update(buffers)


def is_torchs(module: nn.Module) -> bool:
    """Whether all that moves in the module are buffers."""
    return type(module).__module__.startswith(OWN)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What to put back; ``torch.compile`` sees plain attributes as constants, and cannot."""
    if is_torchs(module) or torch.compiler.is_compiling():
        return {}
    return dict(module.__dict__)


def _put_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    if attributes:
        module.__dict__.clear()
        module.__dict__.update(attributes)


class Rollback:
    """Statistics before every evaluation of a step that moved them.

    Where sweeps are decided while the network runs, no evaluation knows that it is the last. Each
    moves the statistics; the next of the same propagator takes that back, and what others have
    moved in the same modules since: they come again after it.
    """

    def __init__(self) -> None:
        self._moved: dict[nn.Module, dict[object, Statistics]] | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """One call of the network."""
        self._moved = {}
        try:
            yield
        finally:
            self._moved = None

    @property
    def is_open(self) -> bool:
        """Whether a call is under way that may evaluate again."""
        return self._moved is not None

    def note(self, who: object, modules: Iterable[nn.Module]) -> None:
        """An evaluation by ``who`` is about to move statistics in the modules."""
        assert self._moved is not None
        for module in dict.fromkeys(modules):
            if is_torchs(module) and not module.training:
                continue  # evaluates, and moves nothing
            before = self._moved.setdefault(module, {})
            while who in before:
                _, statistics = before.popitem()
                statistics.restore()
            before[who] = Statistics([module])
