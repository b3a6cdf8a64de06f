"""Trials: what a network computes between its blocks, run again with some of it changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.propagators.calls import Calls, Place, cuda_of, stream_of
from pararealize.propagators.meta_run import REFUSALS
from pararealize.runtime.values.equality import is_equal
from pararealize.runtime.values.pytree import tensors_of
from pararealize.tracing.observation import Observation


@dataclass(frozen=True)
class Trials:
    """Runs of a copy of the network in one mode, on the values of its inputs.

    Attributes:
        calls: how it calls its blocks.
        twin: the copy.
        values: of the tensors among its arguments.
        seen: what was observed of it in that mode.
        training: the mode.

    """

    calls: Calls
    twin: nn.Module
    values: tuple[Any, ...]
    seen: Observation
    training: bool

    @property
    def known(self) -> dict[Place, Tensor]:
        """All that blocks gave."""
        calls = enumerate(self.seen.calls)
        return {(call, leaf): t for call, seen in calls for leaf, t in enumerate(seen.gave)}

    def gives(
        self,
        number: int,
        leaves: Sequence[int],
        known: Mapping[Place, Tensor],
        streams: Mapping[int, Tensor] | None = None,
        seed: int = 0,
    ) -> list[Tensor]:
        """What the gap before a call, or the head, makes of what is known of the blocks."""
        is_head = number == len(self.calls.blocks)
        self.twin.train(self.training)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            arguments, output = self.calls.run(
                self.twin, self.values, known, None if is_head else number, streams
            )
        taken = tensors_of(output if is_head else arguments[number])
        return taken if is_head else [taken[leaf] for leaf in leaves]

    def drawn(self, number: int, leaves: Sequence[int]) -> set[int]:
        """Those arguments of a call that are others under another seed."""
        one, other = (self.gives(number, leaves, self.known, seed=seed) for seed in (1, 2))
        return {leaf for leaf, a, b in zip(leaves, one, other, strict=True) if not is_equal(a, b)}

    def suffices(self, number: int, leaves: Sequence[int], places: Iterable[Place]) -> bool:
        """Whether a gap gives the same where it knows these of the tensors before it alone.

        In place of others it has the blocks' arguments, mostly of another shape, so that it is
        seen as well where it reads a size of them.
        """
        known = {place: value for place, value in self.known.items() if place[0] < number}
        wanted = self.gives(number, leaves, known)
        try:
            found = self.gives(number, leaves, {place: known[place] for place in places})
        except REFUSALS:  # the network's own, of stand-ins that have another shape
            return False
        return all(map(is_equal, wanted, found))

    def unknown(self, number: int, leaves: Sequence[int], needs: Iterable[Place]) -> set[Place]:
        """What a gap reads of the blocks besides what is known that it needs.

        Whole numbers and what was detached have no graph to tell.
        """
        suffices, needs = partial(self.suffices, number, leaves), set(needs)
        if suffices(needs):
            return set()
        known = {place for place in self.known if place[0] < number}
        last = {place for place in known if place[0] == number - 1}
        if suffices(needs | last):
            return last
        return {place for place in known if not suffices(known - {place})} | last

    def replayed(self, number: int, leaves: Sequence[int], drawing: Sequence[int]) -> list[int]:
        """Of the gaps that draw random numbers, those whose numbers this one reads."""
        streams = []
        for seed in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                streams.append(stream_of(cuda_of(self.values)))

        def given(stirred: int) -> list[Tensor]:
            drawn = {earlier: streams[earlier == stirred] for earlier in range(number)}
            return self.gives(number, leaves, self.known, drawn)

        base = given(-1) if drawing else []
        return [n for n in drawing if not all(map(is_equal, base, given(n)))]
