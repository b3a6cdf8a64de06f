"""Gated recurrent units read as time steps of a differential equation.

Moon and Cyr, "Parallel Training of GRU Networks with a Multi-Grid Solver for Long Sequences"
(ICLR 2022, arXiv:2203.04738).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.errors import MethodError
from pararealize.propagators.step import Step

GATES = 3


class _GatedStep(Step):
    """A step of h' = (1 - z) ⊙ (n - h) with the gates of :class:`torch.nn.GRUCell`.

    r = σ(W_r x + U_r h + b_r), z = σ(W_z x + U_z h + b_z),
    n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n)).

    Parameters have the names, shapes and order of a GRUCell's, whose state dict loads.

    Args:
        inputs: numbers in one input x.
        width: numbers in the hidden state h.
        dt: the step size.

    Raises:
        MethodError: ``inputs`` or ``width`` is less than 1, or ``dt`` is not positive.

    """

    def __init__(self, inputs: int, width: int, dt: float = 1.0) -> None:
        super().__init__()
        if inputs < 1 or width < 1 or not dt > 0:
            raise MethodError(
                "a GRU step has at least one input, one hidden number and dt > 0, not "
                f"inputs={inputs}, width={width}, dt={dt}."
            )
        self.inputs, self.width, self.dt = inputs, width, dt
        self.weight_ih = nn.Parameter(torch.empty(GATES * width, inputs))
        self.weight_hh = nn.Parameter(torch.empty(GATES * width, width))
        self.bias_ih = nn.Parameter(torch.empty(GATES * width))
        self.bias_hh = nn.Parameter(torch.empty(GATES * width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-1/√width, 1/√width), as a GRUCell does."""
        bound = 1 / math.sqrt(self.width)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(  # type: ignore[override]  # one input exactly
        self, hidden: Tensor, x: Tensor, *, span: float = 1.0
    ) -> Tensor:
        """The hidden state ``[batch, width]`` after ``span`` steps, with x ``[batch, inputs]``."""
        of_x = functional.linear(x, self.weight_ih, self.bias_ih)
        of_hidden = functional.linear(hidden, self.weight_hh, self.bias_hh)
        reset_x, keep_x, candidate_x = of_x.chunk(GATES, 1)
        reset_h, keep_h, candidate_h = of_hidden.chunk(GATES, 1)
        rate = self.dt * span * torch.sigmoid(-(keep_x + keep_h))  # 1 - σ(a) = σ(-a)
        candidate = torch.tanh(candidate_x + torch.sigmoid(reset_x + reset_h) * candidate_h)
        return self._advance(hidden, candidate, rate)

    @abstractmethod
    def _advance(self, hidden: Tensor, candidate: Tensor, rate: Tensor) -> Tensor:
        """The hidden state after a step with rate = span·dt·(1 - z), all ``[batch, width]``."""

    @abstractmethod
    def kept(self, rate: Tensor) -> Tensor:
        """κ of h_t = κ ⊙ h_{t-1} + (1 - κ) ⊙ n, for a rate = span·dt·(1 - z)."""

    @abstractmethod
    def kept_slope(self, kept: Tensor) -> Tensor:
        """∂κ/∂rate, at the rate with that κ."""

    def extra_repr(self) -> str:
        """Sizes, and the step size."""
        return f"{self.inputs}, {self.width}, dt={self.dt}"


@final
class GRUStep(_GatedStep):
    """The classic gated recurrent unit as a step of forward Euler.

    h_t = h_{t-1} + span·dt (1 - z) ⊙ (n - h_{t-1}); with span·dt = 1 this is
    :class:`torch.nn.GRUCell` (Cho et al., arXiv:1406.1078). With the gates held fixed it is
    stable for span·dt (1 - z) ≤ 2 only.
    """

    def _advance(self, hidden: Tensor, candidate: Tensor, rate: Tensor) -> Tensor:
        return hidden + rate * (candidate - hidden)

    def kept(self, rate: Tensor) -> Tensor:
        """1 - rate."""
        return 1 - rate

    def kept_slope(self, kept: Tensor) -> Tensor:
        """-1."""
        return torch.full_like(kept, -1.0)


@final
class ImplicitGRUStep(_GatedStep):
    """The implicit gated recurrent unit of Moon and Cyr, linearly implicit Euler.

    (1 + span·dt (1 - z)) ⊙ h_t = h_{t-1} + span·dt (1 - z) ⊙ n, with the gates of h_{t-1}: every
    number of h_t lies between those of h_{t-1} and n, so that steps of any size are stable.
    """

    def _advance(self, hidden: Tensor, candidate: Tensor, rate: Tensor) -> Tensor:
        return (hidden + rate * candidate) / (1 + rate)

    def kept(self, rate: Tensor) -> Tensor:
        """1 / (1 + rate)."""
        return (1 + rate).reciprocal_()

    def kept_slope(self, kept: Tensor) -> Tensor:
        """-κ²."""
        return -kept * kept
