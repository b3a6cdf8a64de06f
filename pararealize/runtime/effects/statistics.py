"""Statistics: what an evaluation moves in a network, kept still or moved back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from pararealize.runtime.effects.containers import Contents, attribute_tensors

#: Packages whose modules move nothing but buffers, and draw nothing but in dropout.
OWN = ("torch.nn", "pararealize.propagators", "pararealize.layers")


@contextmanager
def frozen_statistics(modules: Iterable[nn.Module], *, marks: bool = True) -> Iterator[None]:
    """Let nothing that an evaluation moves in the modules stay moved.

    BatchNorm still normalises by the batch; its running mean, variance and count stay, and so
    does what modules of the user's own keep in plain attributes. Whoever puts hooks back as well
    wants no ``marks`` that they are there.
    """
    modules = tuple(modules)
    if all(map(is_torchs, modules)):  # others may change the mode of their parts
        norms = nn.modules.batchnorm._NormBase  # which move nothing in eval mode
        modules = tuple(m for m in modules if m.training or not isinstance(m, norms))
    own = _kept(modules)
    try:
        with buffer_copies(modules):
            for kept in own:
                kept.write_on_copies()
            yield
    finally:
        for kept in own:
            kept.restore(marks=marks)


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


@contextmanager
def attributes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put back what user's modules keep in attributes and containers; buffers move."""
    own = _kept(modules)
    try:
        yield
    finally:
        for kept in own:
            kept.restore(marks=True)


class Statistics:
    """What an evaluation may move in some modules, as it was."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = tuple(dict.fromkeys(modules))
        self._kept = [(module, dict(module._buffers)) for module in modules]
        self._own = _kept(modules)
        buffers = (b for _, own in self._kept for b in own.values() if b is not None)
        plain = (tensor for own in self._own for tensor in own.tensors.values())
        self._numbers = [(t, t.detach().clone()) for t in (*buffers, *plain)]

    def restore(self) -> None:
        """Move everything back.

        Past autograd, which would take it for a change under the graphs of earlier calls: they hold
        the buffers, though training reads no number of them.
        """
        for buffer, numbers in self._numbers:
            buffer.data.copy_(numbers)
        for own in self._own:
            own.restore(marks=True)
        for module, buffers in self._kept:
            for name, value in buffers.items():  # those of scripted modules are no dictionary
                module._buffers[name] = value


def is_torchs(module: nn.Module) -> bool:
    """Whether all that moves in the module are buffers."""
    return type(module).__module__.startswith(OWN)


def _moves_attributes(module: nn.Module) -> bool:
    """``torch.compile`` sees plain attributes as constants, and cannot put them back."""
    return not is_torchs(module) and not torch.compiler.is_compiling()


@final
class _Own:
    """What a user's module keeps in plain attributes and in containers, as it was."""

    def __init__(self, module: nn.Module, seen: dict[int, int]) -> None:
        self.module, self.attributes = module, dict(module.__dict__)
        self.contents = Contents(module, seen)
        self.tensors = attribute_tensors(self.attributes)

    def write_on_copies(self) -> None:
        """Let the module write on copies of its tensors."""
        self.module.__dict__.update({n: t.clone() for n, t in self.tensors.items()})

    def restore(self, *, marks: bool) -> None:
        """Put everything back, but for ``marks`` that something was done once.

        A new attribute that is ``True`` may say that hooks were put on other modules, as networks
        of ``transformers`` do at their first call; without the mark they would come twice.
        """
        now = self.module.__dict__
        new = [name for name in now.keys() - self.attributes.keys() if now[name] is True]
        now.clear()
        now.update(self.attributes)
        now.update(dict.fromkeys(new if marks else (), True))
        self.contents.restore()


def _kept(modules: Iterable[nn.Module]) -> list[_Own]:
    """What is to be put back of each module; containers that several have once."""
    seen: dict[int, int] = {}
    return [_Own(module, seen) for module in modules if _moves_attributes(module)]


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
