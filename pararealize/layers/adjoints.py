"""Adjoints of a gated recurrent unit: sweeps over slices of time from the last to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pararealize.layers.slices import TINY, Linearised, Slices, correct_guesses


@final
@dataclass(frozen=True)
class SlicedAdjoints:
    """Gradients of all states and of U h + c, ``[steps, slices · batch, ...]``, and of h_0.

    Ranks that share slices have each their share of a sum.
    """

    of_states: Tensor
    of_hidden: Tensor
    of_first: Tensor
    sweeps: int


@torch.no_grad()
def adjoints(
    slices: Slices,
    grad: Tensor,
    linear: Linearised,
    weight: Tensor,
    tolerance: float,
    most: int,
) -> SlicedAdjoints:
    """By the transposed steps; ``grad`` is the loss's own by states ``[length, batch, width]``.

    What comes to a slice from the next one is guessed by the products of the diagonals, and
    corrected as the states' starts are.
    """
    given, share = slices.cut(grad), slices.share
    count = share.count
    found, of_hidden = torch.empty_like(given), torch.empty_like(linear.factors)
    starts = slices.by_slice(given.sum(0))  # of this rank's slices, as they would be alone
    own = share.gather(starts)
    ends = torch.zeros_like(own)  # of every slice, what comes from the next one
    for s in reversed(range(count - 1)):
        ends[s] = linear.products[s + 1] * (ends[s + 1] + own[s + 1])
    scale = share.largest(given.abs().max()).clamp_min(TINY)
    for sweep in range(most):
        local = share.upto(count - sweep)
        if local:
            parts = (given, found, of_hidden, linear.factors, linear.kept)
            cut = [part[:, : local * slices.batch] for part in parts]
            later = ends[share.begin : share.begin + local].flatten(0, 1)
            starts[:local] = slices.by_slice(_back(cut, later, weight))
        if sweep == most - 1:
            break
        links = ((s + 1, s) for s in reversed(range(count - sweep - 1)))
        moved = correct_guesses(ends, share.gather(starts), linear.products, links)
        if share.decide(float(moved) / float(scale) <= tolerance):
            break
    of_first = starts[0] if share.begin == 0 else torch.zeros_like(starts[0])
    return SlicedAdjoints(found, of_hidden, of_first, sweep + 1)


def _back(parts: Sequence[Tensor], later: Tensor, weight: Tensor) -> Tensor:
    """Run slices backwards from what comes from the next ones; what they give the ones before.

    Of the parts ``given``, ``factors`` and ``kept`` are read, ``found`` and ``of_hidden`` written.
    """
    given, found, of_hidden, factors, kept = parts
    width = later.shape[-1]
    for t in reversed(range(len(given))):
        adjoint = torch.add(given[t], later, out=found[t])
        # The same gradient for each of the three gates.
        thrice = adjoint.unsqueeze(1).expand(-1, 3, -1)
        of_gates = of_hidden[t].view(-1, 3, width)
        torch.mul(factors[t].view(-1, 3, width), thrice, out=of_gates)
        later = torch.addmm(kept[t] * adjoint, of_hidden[t], weight)
    return later
