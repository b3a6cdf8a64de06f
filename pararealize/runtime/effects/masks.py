"""Masks: draw random numbers once a step, and the same ones at every further evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from pararealize.errors import RankError
from pararealize.runtime.effects.generators import (
    Generator,
    States,
    device_states,
    is_same,
    put_back,
    state_of,
)
from pararealize.runtime.values.pytree import tensors_of


class Draws(ABC):
    """What gives a captured step its random numbers, which no host can put back in a replay."""

    @abstractmethod
    def drawn(
        self, masks: Masks, values: tuple[Any, ...], commits: bool
    ) -> AbstractContextManager[None]:
        """A block that draws new numbers at a propagator's first evaluation, then the same."""


class Masks:
    """The random state at a propagator's first evaluation in a step.

    ``own_stream`` propagators leave the main random stream as they found it, so that the serial
    network's draws come in the serial network's order. Where ``start`` is given, they draw from
    there, whenever in the step that is. ``others`` are generators besides those of devices.

    How many numbers a layer draws may depend on its state (``nn.RReLU``, ``torch.poisson``): then
    the serial network draws those of the next subnetwork from another place than at first, namely
    from where the newest evaluation of the one ``before`` has ended; the last one of the network
    leaves the main stream where it ends. On ranks, which begin at once, that is an error.
    """

    captured: Draws | None = None

    def __init__(self, *, own_stream: bool, others: tuple[Generator, ...] = ()) -> None:
        self.own_stream, self.others = own_stream, others
        self.states: States = []
        self.start: dict[torch.device, Any] = {}
        self.before: Masks | None = None
        self.is_linked, self.is_last, self.is_on_ranks = False, False, False
        self.ends: States = []
        self.shapes: list[torch.Size] = []

    def begin_step(self) -> None:
        """Forget the last step's draws."""
        self.states, self.start, self.ends = [], {}, []

    @contextmanager
    def drawn(self, values: tuple[Any, ...], *, commits: bool = True) -> Iterator[None]:
        """Run with this step's random numbers: new ones at first, later the same again."""
        if self.captured is not None:
            with self.captured.drawn(self, values, commits):
                yield
            return
        before = self._now(values)
        first = not self.states
        if first:
            self.states = [(g, self.start.get(g, state)) for g, state in before]
        elif self.before is not None and self.before.ends:
            self.states = self._after(self.before.ends)
        for generator, state in self.states:
            put_back(generator, state)
        done = False
        try:
            yield
            done = True
        finally:
            if done and (self.is_linked or self.is_on_ranks):
                shapes = [tensor.shape for tensor in tensors_of(values)]
                self._end(self._now(values), shapes, first=first, commits=commits)
            if self.own_stream or not (first or (self.is_last and commits)):
                for generator, state in before:
                    put_back(generator, state)

    def _now(self, values: tuple[Any, ...]) -> States:
        return [*device_states(values), *((g, state_of(g)) for g in self.others)]

    def _after(self, ends: States) -> States:
        """The step's states, those that the propagator before has as well where it ended."""
        ended = {_key(generator): state for generator, state in ends}
        return [(g, ended.get(_key(g), state)) for g, state in self.states]

    def _end(self, now: States, shapes: list[torch.Size], *, first: bool, commits: bool) -> None:
        known = first or shapes == self.shapes  # else of another call, whose backward pass is late
        if self.is_on_ranks and not self.own_stream and known:
            self._check(now, first=first)
        if first or commits:
            self.ends, self.shapes = now, shapes

    def _check(self, now: States, *, first: bool) -> None:
        """Raise where ranks, which begin at once, cannot know where the others end.

        Raises:
            RankError: numbers are drawn from a generator of which only this rank knows, or how many
                there are depends on the state.

        """
        if first:
            pairs = zip(now, self.states, strict=True)
            moved = [g for (g, new), (_, old) in pairs if not is_same(new, old)]
            for generator in moved:
                if isinstance(generator, str):
                    raise RankError(
                        f"a layer draws from {generator} generator, and ranks cannot know "
                        "what the others draw from it: draw with torch instead, as in "
                        "torch.rand(()) < p, or run the network in one process."
                    )
        elif not all(is_same(new, old) for (_, new), (_, old) in zip(now, self.ends, strict=True)):
            raise RankError(
                "how many random numbers a layer draws depends on what it is given (as with "
                "nn.RReLU or torch.poisson), and ranks, which begin at once, cannot know where the "
                "others end: give the layer a torch.Generator of its own, draw one number for "
                "every element, or run the network in one process."
            )


def _key(generator: Generator) -> Any:
    return generator if isinstance(generator, (str, torch.device)) else id(generator)


def random_states(values: Any) -> States:
    """The random state of the CPU, and of the devices of the values."""
    return device_states(values)
