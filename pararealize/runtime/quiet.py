"""Quiet: evaluate a network without moving its statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def quiet(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the modules write on copies of their buffers, which are dropped afterwards.

    BatchNorm still normalises by the batch; its running mean, variance and count stay. The
    buffers themselves are set aside rather than written back, so that a backward pass which
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
            module._buffers.update(buffers)
