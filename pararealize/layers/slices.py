"""Slices of time of a gated recurrent unit: sweeps over all of them, forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pararealize.layers.recurrent import GATES, GRUStep, ImplicitGRUStep
from pararealize.layers.shared_slices import Share

#: What sizes are divided by where all numbers are zero.
TINY = 1e-30


@final
@dataclass(frozen=True)
class HiddenWeights:
    """What a step does to its hidden state: U ``[3 width, width]`` and c ``[3 width]``."""

    weight: Tensor
    bias: Tensor
    step: GRUStep | ImplicitGRUStep

    @property
    def width(self) -> int:
        """Numbers in the hidden state."""
        return self.weight.shape[1]


@final
@dataclass(frozen=True)
class Slices:
    """What x gives to the gates, ``[steps, slices · batch, 3 width]``, of this rank's slices.

    Time t is step t mod ``steps`` of slice t div ``steps``; behind ``length`` times there are
    zeros, which fill up the last slice.
    """

    of_x: Tensor
    length: int
    batch: int
    share: Share

    @classmethod
    def of(cls, of_x: Tensor, steps: int, share: Share) -> Slices:
        """Times of this rank ``[length, batch, 3 width]`` in slices of so many steps."""
        length, batch, _ = of_x.shape
        return cls(_cut(of_x, steps), length, batch, share)

    def cut(self, times: Tensor) -> Tensor:
        """``[length, batch, ...]`` as ``[steps, slices · batch, ...]``, zeros behind the end."""
        return _cut(times, len(self.of_x))

    def joined(self, cut: Tensor) -> Tensor:
        """The opposite of :meth:`cut`."""
        times: Tensor = cut.unflatten(1, (-1, self.batch)).transpose(0, 1).flatten(0, 1)
        return times[: self.length]

    def by_slice(self, cut: Tensor) -> Tensor:
        """``[slices · batch, width]`` as ``[slices, batch, width]``, of this rank's slices."""
        return cut.view(-1, self.batch, cut.shape[-1])


def steps_of(length: int, slices: int) -> tuple[int, int]:
    """The steps of a slice, and how many of at most so many slices they make of a length."""
    steps = -(-length // min(slices, length))
    return steps, -(-length // steps)


def _cut(times: Tensor, steps: int) -> Tensor:
    missing = -len(times) % steps
    padded = functional.pad(times, (0, 0, 0, 0, 0, missing)) if missing else times
    found: Tensor = padded.unflatten(0, (-1, steps)).transpose(0, 1).flatten(1, 2)
    return found


@final
@dataclass(frozen=True)
class Linearised:
    """The derivative of every step, ``[steps, slices · batch, ...]``.

    With λ the gradient of a step's result, κ λ + U' (factors · λ) is that of its hidden state:
    ``factors`` are those of the three parts of U h + c, and ``candidate`` that of what x gives to
    the candidate. ``products`` ``[slices, batch, width]`` are those of the diagonals over slices,
    of all ranks.
    """

    kept: Tensor
    factors: Tensor
    candidate: Tensor
    products: Tensor


@final
class SlicedStates:
    """States, by sweeps over slices; what the last sweep found stays for the derivative."""

    def __init__(self, slices: Slices, first: Tensor, weights: HiddenWeights) -> None:
        self._slices, self._weights = slices, weights
        shape = (*slices.of_x.shape[:2], weights.width)
        self.before, self.states, self.kept = (first.new_empty(shape) for _ in range(3))
        self._gates, self._of_hidden = (torch.empty_like(slices.of_x) for _ in range(2))
        self.starts = first.new_zeros(slices.share.count, *first.shape)
        self.starts[0] = first

    def advance(self, exact: int) -> None:
        """Run all slices but the first ``exact`` ones from their starts."""
        step, double, share = self._weights.step, 2 * self._weights.width, self._slices.share
        first = share.upto(exact)
        skipped = first * self._slices.batch
        if skipped == self.states.shape[1]:
            return
        buffers = (self._slices.of_x, self._of_hidden, self._gates, self.kept, self.states)
        turned = self._weights.weight.T
        hidden = self.starts[share.begin + first : share.end].flatten(0, 1)
        parts = (buffer[:, skipped:].unbind() for buffer in buffers)
        self.before[0, skipped:] = hidden
        for of_x, of_hidden, gates, kept, state in zip(*parts, strict=True):
            torch.addmm(self._weights.bias, hidden, turned, out=of_hidden)
            both = gates[:, :double]
            torch.add(of_x[:, :double], of_hidden[:, :double], out=both).sigmoid_()
            reset, keep, candidate = gates.chunk(GATES, 1)
            torch.addcmul(of_x[:, double:], reset, of_hidden[:, double:], out=candidate).tanh_()
            kept.copy_(step.kept(step.dt * (1 - keep)))
            hidden = torch.lerp(candidate, hidden, kept, out=state)
        self.before[1:, skipped:] = self.states[:-1, skipped:]

    def linearised(self) -> Linearised:
        """The derivative of every step at the states that were found."""
        step, weights = self._weights.step, self._weights
        reset, keep, candidate = self._gates.chunk(GATES, -1)
        of_candidate = self._of_hidden[..., 2 * weights.width :]
        share = 1 - self.kept
        into = torch.addcmul(share, share * candidate, candidate, value=-1)
        factors = torch.empty_like(self._gates)
        of_reset, of_keep, of_new = factors.chunk(GATES, -1)
        torch.mul(into, reset, out=of_new)
        torch.mul(of_new, of_candidate, out=of_reset)
        of_reset.addcmul_(of_reset, reset, value=-1)
        torch.sub(self.before, candidate, out=of_keep).mul_(step.kept_slope(self.kept))
        of_keep.mul_(keep).mul_(-step.dt)
        of_keep.addcmul_(of_keep, keep, value=-1)
        return Linearised(self.kept, factors, into, self._products(factors))

    def _products(self, factors: Tensor) -> Tensor:
        """Of the diagonals of ∂step/∂h over slices."""
        if len(self.starts) == 1:
            return torch.empty_like(self.starts)
        blocks = self._weights.weight.unflatten(0, (GATES, -1)).diagonal(dim1=1, dim2=2)
        diagonal = self.kept
        for part, of_block in zip(factors.chunk(GATES, -1), blocks, strict=True):
            diagonal = torch.addcmul(diagonal, part, of_block)
        return self._slices.share.gather(self._slices.by_slice(diagonal.prod(0)))

    def settled(self, products: Tensor, exact: int, tolerance: float) -> bool:
        """New starts; whether none has moved by more, relative to the largest number of a state."""
        share = self._slices.share
        ends = share.gather(self._slices.by_slice(self.states[-1]))
        links = ((s, s + 1) for s in range(exact, len(ends) - 1))
        moved = correct_guesses(self.starts, ends, products, links)
        scale = share.largest(self.states.abs().max()).clamp_min(TINY)
        return share.decide(float(moved / scale) <= tolerance)


def correct_guesses(
    guesses: Tensor, ends: Tensor, products: Tensor, links: Iterable[tuple[int, int]]
) -> Tensor:
    """Guess what slices begin with anew, ``g_t = end_s + P_s (g_s - old g_s)`` for links s → t.

    Gives by how much a guess has moved at most.
    """
    moved, change = ends.new_zeros(()), torch.zeros_like(ends[0])
    for s, t in links:
        guess = ends[s] + products[s] * change
        change = guess - guesses[t]
        guesses[t] = guess
        moved = torch.maximum(moved, change.abs().max())
    return moved


@torch.no_grad()
def solve(states: SlicedStates, most: int, tolerance: float) -> tuple[Linearised | None, int]:
    """Sweep until no start moves; the derivative, where it was needed, and how many sweeps."""
    for sweep in range(most):
        states.advance(sweep)  # after so many sweeps as many slices are exact
        if most == 1:
            break
        linear = states.linearised()
        if sweep == most - 1 or states.settled(linear.products, sweep, tolerance):
            return linear, sweep + 1
    return None, 1
