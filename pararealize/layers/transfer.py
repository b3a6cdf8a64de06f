"""Transfer: weights, gradients and momenta of a deep network on a shallow one, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from pararealize.errors import RefinementError
from pararealize.layers.depths import sources

#: Tensors by their names in a network.
Values = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class Transfer:
    """Restriction R and prolongation P between the tensors of two depths of one family.

    (P θ)_i = θ_I for every fine block i that the coarse block I stands for, and R is the mean over
    those, weighted by ``counts``: the blocks of the finest network that a fine one stands for. So
    R P = 1, and ⟨R a, b⟩ = ⟨a, P b⟩ in the inner products ⟨a, b⟩ = Σ counts_i a_i · b_i: what is
    a gradient in them on the fine depth is one on the coarse depth after R. ``sources`` tells for
    every name on the fine depth that on the coarse one; ``coarse_counts`` are the sums of the fine
    ones.
    """

    sources: Mapping[str, str]
    counts: Mapping[str, int]
    coarse_counts: Mapping[str, int]

    @classmethod
    def between(
        cls, coarse: nn.Module, fine: nn.Module, counts: Mapping[str, int] | None = None
    ) -> Transfer:
        """The transfer between two networks; ``fine`` is the finest where it has no counts.

        Raises:
            RefinementError: they differ in more than depth, or a coarse block stands for
                parameters some of which are shared, or frozen, and some are not.

        """
        found = _distinct(sources(coarse, fine), coarse, fine)
        _check_frozen(found, fine)
        counts = counts or dict.fromkeys(found, 1)
        total = dict.fromkeys(found.values(), 0)
        for name, source in found.items():
            total[source] += counts[name]
        return cls(found, counts, total)

    def restrict(self, values: Values) -> dict[str, Tensor]:
        """R of the values there are; the first of those that have no mean, as counters."""
        restricted: dict[str, Tensor] = {}
        for name, value in values.items():
            source = self.sources[name]
            if value.is_floating_point() or value.is_complex():
                share = value * (self.counts[name] / self.coarse_counts[source])
                restricted[source] = restricted[source] + share if source in restricted else share
            else:
                restricted.setdefault(source, value.clone())
        return restricted

    def prolong(self, values: Values) -> dict[str, Tensor]:
        """P of the values there are; several names have one tensor."""
        taken = self.sources.items()
        return {name: values[source] for name, source in taken if source in values}

    @torch.no_grad()
    def inject(self, coarse: nn.Module, fine: nn.Module) -> None:
        """Give ``coarse`` R of the weights and buffers of ``fine``."""
        known, wanted = fine.state_dict(), coarse.state_dict()
        for name, value in self.restrict({name: known[name] for name in self.sources}).items():
            wanted[name].copy_(value)


def distinct_parameters(net: nn.Module) -> dict[str, str]:
    """Every name of a parameter, with the first name of that parameter."""
    first: dict[nn.Parameter, str] = {}
    named = net.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(parameter, name) for name, parameter in named}


def _distinct(found: Mapping[str, str], coarse: nn.Module, fine: nn.Module) -> dict[str, str]:
    """Names without further ones of the same parameter; a module's extra state is left out."""
    known, wanted, state = distinct_parameters(coarse), distinct_parameters(fine), fine.state_dict()
    taken: dict[str, str] = {}
    for name, source in found.items():
        if not isinstance(state[name], Tensor):
            continue
        first, second = wanted.get(name, name), known.get(source, source)
        if taken.setdefault(first, second) != second:
            raise RefinementError(
                f"{first} and {name} of the deeper network are one parameter, but "
                f"{taken[first]} and {second} of the shallower one are two; share both or neither"
            )
        if (name in wanted) != (source in known):
            raise RefinementError(f"{name} is a parameter of one depth and a buffer of the other")
    return taken


def _check_frozen(found: Mapping[str, str], fine: nn.Module) -> None:
    """A coarse parameter moves with all that it stands for, or with none."""
    seen: dict[str, tuple[str, bool]] = {}
    for name, parameter in fine.named_parameters():
        first, moves = seen.setdefault(found[name], (name, parameter.requires_grad))
        if moves != parameter.requires_grad:
            frozen, free = (first, name) if parameter.requires_grad else (name, first)
            raise RefinementError(
                f"{frozen} is frozen and {free} is not, but one block of the shallower network "
                f"stands for both; freeze both: {free.rpartition('.')[0]}.requires_grad_(False)"
            )
