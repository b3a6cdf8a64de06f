"""Time parallel: a gated recurrent unit whose time is cut into slices that advance as one batch.

Parareal whose coarse step is the linearised recurrence with the diagonal of its derivative, as in
quasi-DEER: Gonzalez, Warrington, Smith and Linderman, "Towards Scalable and Stable Parallelization
of Nonlinear RNNs" (NeurIPS 2024, arXiv:2407.19115).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pararealize.errors import MethodError
from pararealize.ir.options import is_count
from pararealize.layers.adjoints import adjoints
from pararealize.layers.precision import without_autocast
from pararealize.layers.recurrent import GRUStep, ImplicitGRUStep
from pararealize.layers.shared_slices import Share, Sharing, told
from pararealize.layers.slices import HiddenWeights, SlicedStates, Slices, solve, steps_of
from pararealize.runtime.communication.connect import connect
from pararealize.runtime.communication.transport import Transport


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
    A network that forgets needs two to four of eight; one that has learnt to remember nearly all
    (:attr:`solved_in` says), and is solved faster in one slice, or is trained with ``sweeps=2``.
    Gradients are those of the step, written out: adjoints are found by the same sweeps, backwards,
    and the weights' gradients by one product over all times.

    Per time step there are about a dozen operations, and in a sweep length / slices of them follow
    one another. The step stays an ordinary one: its weights are shared.

    Args:
        step: a :class:`GRUStep` or :class:`ImplicitGRUStep`.
        slices: pieces of time; 1 is the serial recurrence, with its gradient written out.
        tolerance: of states, relative to the largest, and of adjoints; 0 runs all sweeps.
        sweeps: 2 or more, run at most so many, converged or not: states after the first
            ``sweeps`` slices are then approximations, and gradients go with them.
        comm: as for :func:`pararealize.pararealize`: each rank advances its share of the slices.
            All hold equal steps, give the same x and get the same states; after the backward pass
            all have the gradients of the whole. None is one process.

    Raises:
        MethodError: another step, no slices or fewer than ranks, a tolerance below 0, or one sweep.
        RankError: the communicator is none, or cannot be used.

    >>> import torch
    >>> from pararealize.layers import ImplicitGRUStep, TimeParallel
    >>> solver = TimeParallel(ImplicitGRUStep(6, 16), slices=4)
    >>> solver(torch.randn(8, 128, 6)).shape
    torch.Size([8, 128, 16])

    """

    def __init__(
        self,
        step: GRUStep | ImplicitGRUStep,
        slices: int = 1,
        tolerance: float = 1e-4,
        *,
        sweeps: int | None = None,
        comm: Any = None,
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
        self._transport = None if comm is None else connect(comm)
        ranks = 1 if self._transport is None else self._transport.size
        if slices < ranks:
            raise MethodError(f"slices={slices} on {ranks} ranks: expected one for each or more.")

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """States ``[batch, length, width]`` for x ``[batch, length, inputs]``; hidden is h_0, or 0.

        Raises:
            MethodError: x has another shape.
            DisagreementError: on ranks, another one does something else, or gave another x.
            RankError: on ranks, another one's step has other weights.

        """
        x, first = self.given(x, hidden)
        with without_autocast(self.step.weight_hh, x, first) as (x, first):
            transport = self._transport
            if transport is None or transport.size == 1:
                return self._solved(x, first, self._weights, None).transpose(0, 1)
            return self._shared(transport, x, first).transpose(0, 1)

    def given(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """The series and h_0, which is 0 where it is not given.

        Raises:
            MethodError: x is no ``[batch, length, inputs]``.

        """
        step = self.step
        if x.dim() != 3 or x.shape[2] != step.inputs or 0 in x.shape:
            raise MethodError(
                f"x is {list(x.shape)}: expected [batch, length, {step.inputs}], with at least one "
                "series of length 1 or more."
            )
        return x, x.new_zeros(x.shape[0], step.width) if hidden is None else hidden

    def _shared(self, transport: Transport, x: Tensor, first: Tensor) -> Tensor:
        """States ``[length, batch, width]``, of which every rank finds its own slices'."""
        said = f"TimeParallel({self.extra_repr()})"
        sharing = Sharing.begin(transport, x, first, self._weights, said)
        with told(transport, "in a recurrence that ranks share"):
            if steps_of(x.shape[1], self.slices)[1] < transport.size:
                return self._solved(x, first, self._weights, None)
            x, first, *weights = sharing.alike((x, first, *self._weights))
            return self._solved(x, first, weights, sharing)

    @property
    def _weights(self) -> tuple[Tensor, ...]:
        step = self.step
        return step.weight_ih, step.bias_ih, step.weight_hh, step.bias_hh

    def _solved(
        self, x: Tensor, first: Tensor, weights: Sequence[Tensor], sharing: Sharing | None
    ) -> Tensor:
        weight_ih, bias_ih, weight_hh, bias_hh = weights
        steps, count = steps_of(x.shape[1], self.slices)
        share = Share.of(None if sharing is None else sharing.transport, count)
        own = x[:, share.begin * steps : share.end * steps]
        of_x = functional.linear(own, weight_ih, bias_ih).transpose(0, 1)
        states: Tensor = _Recurrence.apply(of_x, first, weight_hh, bias_hh, self, (steps, share))  # type: ignore[no-untyped-call]
        if sharing is None:
            return states
        return sharing.joined(states, count, steps, x.shape[1])

    def most(self, slices: int) -> int:
        """How many sweeps there are at most; as many as slices are exact."""
        return slices if self.sweeps is None else min(self.sweeps, slices)

    def extra_repr(self) -> str:
        """Slices, tolerance and, where there is one, the bound on sweeps."""
        bound = "" if self.sweeps is None else f", sweeps={self.sweeps}"
        return f"slices={self.slices}, tolerance={self.tolerance:g}{bound}"


@final
class _Recurrence(torch.autograd.Function):
    """From what x gives to gates, ``[length, batch, 3 width]``, to ``[length, batch, width]``."""

    @staticmethod
    def forward(
        ctx: Any,
        of_x: Tensor,
        first: Tensor,
        weight: Tensor,
        bias: Tensor,
        owner: TimeParallel,
        place: tuple[int, Share],
    ) -> Tensor:
        slices = Slices.of(of_x, *place)
        states = SlicedStates(slices, first, HiddenWeights(weight, bias, owner.step))
        linear, sweeps = solve(states, owner.most(slices.share.count), owner.tolerance)
        owner.solved_in = SolvedIn(sweeps)
        ctx.owner, ctx.slices, ctx.states, ctx.linear = owner, slices, states, linear
        ctx.save_for_backward(weight)  # a weight that is changed before the gradient is an error
        return slices.joined(states.states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with told(ctx.slices.share.transport, "in the backward pass of a recurrence"):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (weight,), owner, slices = ctx.saved_tensors, ctx.owner, ctx.slices
    linear = ctx.linear or ctx.states.linearised()
    most = owner.most(slices.share.count)
    found = adjoints(slices, grad, linear, weight, owner.tolerance, most)
    owner.solved_in = SolvedIn(owner.solved_in.forward, found.sweeps)
    of_hidden = found.of_hidden.flatten(0, 1)
    of_weight, of_bias = of_hidden.T @ ctx.states.before.flatten(0, 1), of_hidden.sum(0)
    # What x gives differs in the candidate alone, which the reset gate does not scale.
    of_x = found.of_hidden
    torch.mul(linear.candidate, found.of_states, out=of_x[..., -weight.shape[1] :])
    return slices.joined(of_x), found.of_first, of_weight, of_bias, None, None
