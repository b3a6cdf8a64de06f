"""Propagator: a network that a schedule applies to a state, and what is made of any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.runtime.effects.masks import Masks
from pararealize.runtime.effects.statistics import Rollback, frozen_statistics, is_torchs
from pararealize.runtime.values.checks import check_finite, line_of, shapes
from pararealize.runtime.values.combine import combine
from pararealize.runtime.values.infinities import is_real
from pararealize.runtime.values.pytree import map_tensors


class Propagator(nn.Module, ABC):
    """State in, state out; statistics move only when told to, masks are drawn once a step.

    Where a later evaluation of a step may move them anew, a rollback takes back what this moved.
    Where it is ``replaced``, that is called for the layers themselves.

    Args:
        label: how errors name it, e.g. ``"subnetwork 2 (layer2.0 … layer2.7)"``.
        leaves: tensors in the state it takes; two or more come as one tuple.

    """

    replaced: Callable[..., Any] | None = None

    def __init__(self, label: str, leaves: int) -> None:
        super().__init__()
        self.label = label
        self.leaves = leaves
        self.masks: Masks | None = None
        self.rollback: Rollback | None = None

    @abstractmethod
    def propagate(self, *values: Any) -> Any:
        """The next state."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that it reads besides the state."""

    @property
    @abstractmethod
    def draws(self) -> bool:
        """Whether it may draw random numbers."""

    @abstractmethod
    def stateful(self) -> Iterable[nn.Module]:
        """Modules in which an evaluation may move buffers or attributes."""

    def called(self) -> Iterable[nn.Module]:
        """Modules whose forward an evaluation runs."""
        return ()

    def paths(self) -> Iterable[str]:
        """Modules, tensors and flags of the network that it reads, by path."""
        return ()

    def weights(self) -> Iterable[Tensor]:
        """Parameters and buffers of the network that it reads."""
        return ()

    def inner_parts(self) -> Iterable[Propagator]:
        """Propagators that it applies."""
        return ()

    def step_masks(self) -> Iterable[Masks]:
        """Masks to forget when a step begins."""
        return () if self.masks is None else (self.masks,)

    def forward(self, *values: Any, commits: bool = True) -> Any:
        """The next state, of the state and the network's inputs that this propagator reads.

        With ``commits=False`` no buffer moves. Under ``torch.autograd.set_detect_anomaly(True)``
        the result is looked at.

        Raises:
            NonFiniteError: anomaly detection is on, and the result is not finite.

        """
        if self.leaves > 1:
            values = (*values[0], *values[1:])
        if torch.compiler.is_compiling():
            return self._evaluate(values, commits)
        try:
            result = self._evaluate(values, commits)
            if torch.is_anomaly_enabled():
                check_finite(result, self.label, values)
            return result
        except Exception as error:
            line = line_of(error.__traceback__)
            at = f", at {line}" if line else ""
            error.add_note(f"in {self.label}{at}, called with {shapes(values)}")
            raise

    def _evaluate(self, values: tuple[Any, ...], commits: bool) -> Any:
        if commits and self.rollback is not None and self.rollback.is_open:
            self.rollback.note(self, self.stateful())
        if commits and self.masks is None:
            return self.propagate(*values)
        moving = () if commits else tuple(self.stateful())
        if self.masks is None and not moving:
            return self.propagate(*values)
        drawn = nullcontext() if self.masks is None else self.masks.drawn(values, commits=commits)
        with drawn, frozen_statistics(moving):
            return self.propagate(*values)


class Around(Propagator):
    """A propagator that applies another one, ``inner``, and is as that one is."""

    inner: Propagator

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that the inner one reads besides the state."""
        return self.inner.inputs

    @property
    def draws(self) -> bool:
        """Whether the inner one may draw random numbers."""
        return self.inner.draws

    def stateful(self) -> Iterable[nn.Module]:
        """Modules in which an evaluation of the inner one may move buffers or attributes."""
        return self.inner.stateful()

    def called(self) -> Iterable[nn.Module]:
        """Modules whose forward an evaluation of the inner one runs."""
        return self.inner.called()

    def inner_parts(self) -> Iterable[Propagator]:
        """The inner one."""
        return (self.inner,)


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
        zero = map_tensors(lambda t: torch.zeros_like(t) if is_real(t) else t, jump)
        here = self.inner(jump, *inputs, commits=not self.shared)
        return combine("+-", here, self.inner(zero, *inputs, commits=False))

    def step_masks(self) -> Iterable[Masks]:
        """Masks of G to forget when a step begins."""
        return self.inner.step_masks()


def with_state(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules, and parts of them, in which an evaluation may move something."""
    parts = (part for module in modules for part in module.modules())
    return [part for part in parts if part._buffers or not is_torchs(part)]
