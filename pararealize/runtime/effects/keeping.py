"""Keeping: what belongs to a network's modules is afterwards what it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pararealize.runtime.effects.containers import Contents
from pararealize.runtime.effects.generators import kept, other_generators


@contextmanager
def all_kept(root: nn.Module) -> Iterator[None]:
    """Let what runs inside leave nothing in containers that a tree's modules know.

    Nor does it move the generators of random numbers that they hold or name.
    """
    modules = list(root.modules())
    before = [Contents(m) for m in modules if not type(m).__module__.startswith("torch.nn.")]
    try:
        with kept(other_generators(modules)):
            yield
    finally:
        for contents in reversed(before):
            contents.restore()
