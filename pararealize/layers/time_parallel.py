"""Time parallel: a gated recurrent unit whose time is cut into slices that advance as one batch.

Parareal whose coarse step is the linearised recurrence with the diagonal of its derivative, as in
quasi-DEER: Gonzalez, Warrington, Smith and Linderman, "Towards Scalable and Stable Parallelization
of Nonlinear RNNs" (NeurIPS 2024, arXiv:2407.19115).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pararealize.errors import MethodError
from pararealize.ir.options import is_count
from pararealize.layers.adjoints import adjoints
from pararealize.layers.recurrent import GRUStep, ImplicitGRUStep
from pararealize.layers.slices import HiddenWeights, SlicedStates, Slices, solve


@final
@dataclass(frozen=True)
class SolvedIn:
    """Sweeps over all slices that states and adjoints took; zero before there were any."""

    forward: int = 0
    backward: int = 0


@final
class TimeParallel(nn.Module):
    """All states of h_t = step(h_{t-1}, x_t), with time cut into slices that run side by side.

    A sweep runs every slice from a guess of its first state; then the guesses are corrected,
    g_{s+1} = end_s + P_s (g_s - old g_s), where P_s is the product over the slice of the diagonals
    of ∂step/∂h. It ends when no guess moves by more than ``tolerance`` times the largest number of
    a state. After k sweeps the first k slices are exact, so that there are never more than slices.
    Gradients are those of the step, written out: adjoints are found by the same sweeps, backwards,
    and the weights' gradients by one product over all times.

    Per time step there are about a dozen operations, and in a sweep length / slices of them follow
    one another. The step stays an ordinary one: its weights are shared.

    Args:
        step: a :class:`GRUStep` or :class:`ImplicitGRUStep`.
        slices: pieces of time; 1 is the serial recurrence.
        tolerance: of states, relative to the largest, and of adjoints; 0 runs all sweeps.

    Raises:
        MethodError: another step, no slices, or a tolerance below 0.

    >>> import torch
    >>> from pararealize.layers import ImplicitGRUStep, TimeParallel
    >>> solver = TimeParallel(ImplicitGRUStep(6, 16), slices=4)
    >>> solver(torch.randn(8, 128, 6)).shape
    torch.Size([8, 128, 16])

    """

    def __init__(
        self,
        step: GRUStep | ImplicitGRUStep,
        slices: int = 8,
        tolerance: float = 1e-4,
        *,
        sweeps: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(step, (GRUStep, ImplicitGRUStep)):
            raise MethodError(
                f"a {type(step).__name__} has no diagonal here: TimeParallel takes a GRUStep or an "
                "ImplicitGRUStep; other steps go through pararealize(model, n, method=MGRIT())."
            )
        if not is_count(slices, 1) or not tolerance >= 0:
            raise MethodError(
                f"slices={slices!r}, tolerance={tolerance!r}: expected at least one slice and a "
                "tolerance of 0 or more."
            )
        if sweeps is not None and not is_count(sweeps, 2):
            raise MethodError(
                f"sweeps={sweeps!r}: expected 2 or more, as in the first one no slice hears of "
                "another, or None for as many as the tolerance asks for."
            )
        self.step, self.slices, self.tolerance, self.sweeps = step, slices, tolerance, sweeps
        self.solved_in = SolvedIn()

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """States ``[batch, length, width]`` for x ``[batch, length, inputs]``; hidden is h_0, or 0.

        Raises:
            MethodError: x has another shape.

        """
        step = self.step
        if x.dim() != 3 or x.shape[2] != step.inputs or not x.shape[1]:
            raise MethodError(
                f"x is {list(x.shape)}: expected [batch, length, {step.inputs}], length 1 or more."
            )
        first = x.new_zeros(x.shape[0], step.width) if hidden is None else hidden
        of_x = functional.linear(x, step.weight_ih, step.bias_ih).transpose(0, 1)
        weights = step.weight_hh, step.bias_hh
        states: Tensor = _Recurrence.apply(of_x, first, *weights, self)  # type: ignore[no-untyped-call]
        return states.transpose(0, 1)

    def most(self, slices: int) -> int:
        """How many sweeps there are at most; as many as slices are exact."""
        return slices if self.sweeps is None else min(self.sweeps, slices)

    def extra_repr(self) -> str:
        """Slices and tolerance."""
        return f"slices={self.slices}, tolerance={self.tolerance:g}"


@final
class _Recurrence(torch.autograd.Function):
    """From what x gives to gates, ``[length, batch, 3 width]``, to ``[length, batch, width]``."""

    @staticmethod
    def forward(
        ctx: Any, of_x: Tensor, first: Tensor, weight: Tensor, bias: Tensor, owner: TimeParallel
    ) -> Tensor:
        slices = Slices.of(of_x, owner.slices)
        states = SlicedStates(slices, first, HiddenWeights(weight, bias, owner.step))
        linear, sweeps = solve(states, owner.most(slices.count), owner.tolerance)
        owner.solved_in = SolvedIn(sweeps)
        ctx.owner, ctx.slices, ctx.states, ctx.linear = owner, slices, states, linear
        ctx.save_for_backward(weight)  # a weight that is changed before the gradient is an error
        return slices.joined(states.states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), owner, slices = ctx.saved_tensors, ctx.owner, ctx.slices
        linear = ctx.linear or ctx.states.linearised()
        most = owner.most(slices.count)
        found = adjoints(slices, grad, linear, weight, owner.tolerance, most)
        owner.solved_in = SolvedIn(owner.solved_in.forward, found.sweeps)
        of_hidden = found.of_hidden.flatten(0, 1)
        of_weight, of_bias = of_hidden.T @ ctx.states.before.flatten(0, 1), of_hidden.sum(0)
        # What x gives differs in the candidate alone, which the reset gate does not scale.
        of_x = found.of_hidden
        torch.mul(linear.candidate, found.of_states, out=of_x[..., -weight.shape[1] :])
        return slices.joined(of_x), found.of_first, of_weight, of_bias, None
