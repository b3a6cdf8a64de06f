"""Zero-preserving propagators: no jump, no correction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch

from pararealize.propagators.propagator import Around, Propagator
from pararealize.runtime.effects.masks import Masks
from pararealize.runtime.values.combine import combine
from pararealize.runtime.values.pytree import map_tensors


@final
class ZeroPreserving(Around):
    """F(r) = G(r) - G(0): a residual-form correction made of any propagator G.

    Where G is affine this is its linear part; where it is linear, G itself.

    The buffers of a network of its own move with G(r) when told to; those of the fine propagator
    belong to its own evaluations and stay.
    """

    def __init__(self, inner: Propagator, *, shared: bool) -> None:
        super().__init__(inner.label, 1)
        self.shared = shared
        object.__setattr__(self, "inner", inner)

    @property
    def draws(self) -> bool:
        """G draws, and keeps, its own masks."""
        return False

    def propagate(self, *values: Any) -> Any:
        """G(r) - G(0), with the same masks in both."""
        jump, *inputs = values
        zero = map_tensors(torch.zeros_like, jump)
        here = self.inner(jump, *inputs, commits=not self.shared)
        return combine("+-", here, self.inner(zero, *inputs, commits=False))

    def step_masks(self) -> Iterable[Masks]:
        """Masks of G to forget when a step begins."""
        return self.inner.step_masks()
