"""Checkpointed propagators: only the states between intervals are kept for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pararealize.propagators.fine import Fine
from pararealize.propagators.propagator import Around
from pararealize.runtime.effects.statistics import frozen_statistics


@final
class Checkpointed(Around):
    """Φ_j as its intervals one after another, each run again when its adjoint is asked for.

    Args:
        whole: the slice.
        intervals: the same layers in parts, each of which takes the state that the last one made.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.

    """

    inner: Fine
    intervals: tuple[Fine, ...]

    def __init__(self, whole: Fine, intervals: Sequence[Fine]) -> None:
        super().__init__(whole.label, whole.leaves)
        object.__setattr__(self, "inner", whole)
        object.__setattr__(self, "intervals", tuple(intervals))

    def propagate(self, *values: Any) -> Any:
        """Φ_j(state)."""
        inputs = dict(zip(self.inputs, values[self.leaves :], strict=True))
        state = values[: self.leaves]
        for part in self.intervals:
            made = self._run(part, *state, *(inputs[name] for name in part.inputs))
            state = made if isinstance(made, tuple) else (made,)
        return made

    def _run(self, part: Fine, *values: Any) -> Any:
        if not torch.is_grad_enabled():
            return part.propagate(*values)
        contexts = partial(_contexts, part)
        return checkpoint(part.propagate, *values, use_reentrant=False, context_fn=contexts)

    def paths(self) -> Iterable[str]:
        """Modules, tensors and flags of the network that the slice reads, by path."""
        return self.inner.paths()

    def weights(self) -> Iterable[Tensor]:
        """Parameters and buffers of the network that the slice reads."""
        return self.inner.weights()


def _contexts(part: Fine) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first run and the second, in which no statistics move."""
    return nullcontext(), frozen_statistics(_stateful_later(part))


def _stateful_later(part: Fine) -> Iterator[nn.Module]:
    """Modules of a part that hold state when they are asked for."""
    yield from part.stateful()
