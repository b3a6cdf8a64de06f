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
    """Gradients of all states and of U h + c, ``[steps, slices · batch, ...]``, and of h_0."""

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
    given, count = slices.cut(grad), slices.count
    found, of_hidden = torch.empty_like(given), torch.empty_like(linear.factors)
    own = given.unflatten(1, (count, -1)).sum(0)
    ends = torch.zeros_like(own)  # of every slice, what comes from the next one
    for s in reversed(range(count - 1)):
        ends[s] = linear.products[s + 1] * (ends[s + 1] + own[s + 1])
    scale = given.abs().max().clamp_min(TINY)
    for sweep in range(most):
        inexact = count - sweep
        until = inexact * slices.batch
        parts = (given, found, of_hidden, linear.factors, linear.kept)
        later = ends[:inexact].flatten(0, 1)
        starts = _back([part[:, :until] for part in parts], later, weight).view_as(ends[:inexact])
        if sweep == most - 1:
            break
        links = ((s + 1, s) for s in reversed(range(inexact - 1)))
        moved = correct_guesses(ends, starts, linear.products, links)
        if float(moved) / float(scale) <= tolerance:
            break
    return SlicedAdjoints(found, of_hidden, starts[0], sweep + 1)


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
