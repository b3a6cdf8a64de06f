"""Time parareal: a gated recurrent unit as a parareal network over time."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.errors import MethodError
from pararealize.ir.options import is_count
from pararealize.layers.precision import without_autocast
from pararealize.layers.recurrent import GRUStep, ImplicitGRUStep
from pararealize.layers.slices import steps_of
from pararealize.layers.time_parallel import TimeParallel

#: Added to a variance before its root is taken, which has no derivative at 0.
EPSILON = 1e-6


@final
class TimeParareal(nn.Module):
    """States of a recurrence whose slices of time start from guesses that are learned with it.

    The parareal network of Lee, Lee and Park (arXiv:2103.08802) with time for depth. A coarse
    recurrence C guesses the state before every slice; all slices run from there as one batch; what
    a guess was wrong by is carried on by a linear coarse propagator, that forgets exponentially:

        g_s = C(x)_s,   v_s(t) = step^t(g_s),   u_{s+1} = v_s(T) + κ(T) ⊙ (u_s - g_s),
        h_s(t) = v_s(t) + κ(t) ⊙ (u_s - g_s),   κ(t) = σ(p)^(t/T),

    for slices s = 1 … n of T steps, with g_1 = u_1 = h_0. C has the gates of the step, weights of
    its own, and sees the mean and the deviation of every ``block`` of samples. It is another
    function than the serial recurrence, unless guesses are exact, and is trained and used as it is;
    about T + n T / block steps follow one another instead of n T. Gradients are its own.

    Args:
        step: a :class:`GRUStep` or :class:`ImplicitGRUStep`.
        slices: pieces of time; 1 is the serial recurrence.
        block: samples that a step of the coarse recurrence sees; None is as many as there are
            slices, so that all guesses take about as long as a slice.

    Raises:
        MethodError: another step, no slices, or no samples in a block.

    >>> import torch
    >>> from pararealize.layers import ImplicitGRUStep, TimeParareal
    >>> recurrence = TimeParareal(ImplicitGRUStep(6, 16), slices=8)
    >>> recurrence(torch.randn(4, 128, 6)).shape
    torch.Size([4, 128, 16])

    """

    #: Jumps u_s - g_s of the last call, s = 2 … n, relative to the largest number of a guess.
    jumps: Tensor

    def __init__(
        self, step: GRUStep | ImplicitGRUStep, slices: int = 8, *, block: int | None = None
    ) -> None:
        super().__init__()
        if not is_count(slices, 1) or not (block is None or is_count(block, 1)):
            raise MethodError(
                f"slices={slices!r}, block={block!r}: expected 1 or more of either, or no block."
            )
        self.fine = TimeParallel(step, 1)
        self.coarse = TimeParallel(type(step)(2 * step.inputs, step.width, step.dt), 1)
        weight = self.step.weight_hh
        self.coarse.to(device=weight.device, dtype=weight.dtype)
        self.memory = nn.Parameter(torch.zeros_like(weight[0, : step.width]))
        self.slices, self.block, self.jumps = slices, block or slices, torch.zeros(0)

    @property
    def step(self) -> GRUStep | ImplicitGRUStep:
        """The step that slices run."""
        return self.fine.step

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """States ``[batch, length, width]`` for x ``[batch, length, inputs]``; hidden is h_0, or 0.

        Raises:
            MethodError: x has another shape.

        """
        x, first = self.fine.given(x, hidden)
        with without_autocast(self.memory, x, first) as (x, first):
            return self._states(x, first)

    def _states(self, x: Tensor, first: Tensor) -> Tensor:
        length = x.shape[1]
        steps, count = steps_of(length, self.slices)
        parts = functional.pad(x, (0, 0, 0, steps * count - length)).unflatten(1, (count, steps))
        guesses = [first, *self._guesses(parts, first)]
        ran = self.fine(parts.transpose(0, 1).flatten(0, 1), torch.cat(guesses))
        states, jumps = ran.unflatten(0, (count, len(x))), [torch.zeros_like(first)]
        kept = torch.sigmoid(self.memory)
        for number in range(1, count):
            state = states[number - 1, :, -1] + kept * jumps[-1]
            jumps.append(state - guesses[number])
        self._note(guesses, jumps)
        times = torch.arange(1, steps + 1, dtype=x.dtype, device=x.device) / steps
        moved = torch.stack(jumps)[:, :, None]
        corrected = torch.addcmul(states, moved, kept ** times[:, None])
        found: Tensor = corrected.transpose(0, 1).flatten(1, 2)[:, :length]
        return found

    def _guesses(self, parts: Tensor, first: Tensor) -> list[Tensor]:
        """The states before the slices 2 … n of ``[batch, slices, steps, inputs]``."""
        count, steps = parts.shape[1:3]
        if count == 1:
            return []
        seen = parts[:, :-1].flatten(0, 1).transpose(1, 2)
        blocks = -(-steps // self.block)
        mean = functional.adaptive_avg_pool1d(seen, blocks)
        square = functional.adaptive_avg_pool1d(seen * seen, blocks)
        spread = (square - mean * mean).clamp_min(0).add(EPSILON).sqrt()
        told = torch.cat([mean, spread], 1).transpose(1, 2)
        states = self.coarse(told.unflatten(0, (len(first), count - 1)).flatten(1, 2), first)
        return list(states[:, blocks - 1 :: blocks].unbind(1))

    @torch.no_grad()
    def _note(self, guesses: list[Tensor], jumps: list[Tensor]) -> None:
        found = torch.stack(jumps).detach()[1:]
        largest = torch.stack(guesses).abs().amax().clamp_min(torch.finfo(found.dtype).tiny)
        self.jumps = found.abs().flatten(1).amax(1) / largest if len(found) else found.new_zeros(0)

    def extra_repr(self) -> str:
        """Slices, and samples in a block."""
        return f"slices={self.slices}, block={self.block}"
