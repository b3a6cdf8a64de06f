"""Random streams: every rank draws the random numbers that one process would have drawn there."""

from __future__ import annotations

import struct
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pararealize.errors import RankError
from pararealize.ir.target import Target
from pararealize.runtime.communication.transport import Transport

#: Tag of the offsets that ranks hand on while they learn how much each of them draws.
OFFSET = 2**27

#: Mersenne Twister: 32-bit words in one block; where in a saved state they and the place lie.
BLOCK, PLACE, WORDS = 624, 8, slice(24, 24 + 8 * 624)

#: Blocks after which a state is not the later one of another.
MOST_BLOCKS = 200_000


@dataclass(frozen=True)
class Draw:
    """A task that draws random numbers for the first time in a step.

    ``value`` is what it makes, or in a multigrid solve what it applies; ``own``: a coarse or guess
    network, which leaves the stream of the network as it found it.
    """

    value: str | Target
    rank: int
    own: bool


def _place(state: Tensor) -> int:
    """Words of its block that a state has used."""
    (left,) = struct.unpack_from("<i", state.numpy().tobytes(), PLACE)
    return BLOCK + 1 - int(left)


def _skip(generator: torch.Generator, words: int) -> None:
    while words > 0:
        some = min(words, 1 << 22)
        torch.empty(some, dtype=torch.int32).random_(generator=generator)
        words -= some


def words_between(before: Tensor, after: Tensor) -> int:
    """Random words that were drawn on the CPU between two states of one generator.

    Raises:
        RankError: the second state is no later one of the first.

    """
    generator = torch.Generator()
    generator.set_state(before)
    words = _place(after) - _place(before)
    if words < 0:
        _skip(generator, BLOCK)
        words += BLOCK
    for _ in range(MOST_BLOCKS):
        if torch.equal(generator.get_state()[WORDS], after[WORDS]):
            return words
        _skip(generator, BLOCK)
        words += BLOCK
    raise RankError(
        "a layer sets PyTorch's random seed while the network runs: ranks cannot know which "
        "numbers the others draw. Draw them with a generator of the layer's own."
    )


def _nothing() -> None:
    """What a rank that is alone waits for."""


@final
class RandomStreams:
    """Random states for the tasks of one rank.

    One process draws for the subnetworks one after another. Ranks start at once, each at the place
    in that stream which its subnetworks would have reached. How many words each of them draws is
    learned in the first call of a kind, where they start one after another. ``draws`` are the tasks
    that draw, of all ranks, in the schedule's order.
    """

    def __init__(self, draws: tuple[Draw, ...], transport: Transport) -> None:
        self._draws, self._transport = draws, transport
        self._index = {draw.value: i for i, draw in enumerate(draws)}
        self._known: dict[int, list[int]] = {}
        self._found: dict[int, int] = {}
        self._key, self._at, self._reached = 0, 0, 0
        self._generator, self._start = torch.Generator(), torch.get_rng_state()
        self._settle = _nothing
        self._epoch = transport.epoch

    def begin(self, key: int, settle: Callable[[], None] = _nothing) -> None:
        """A call of the kind ``key`` begins; ``settle`` waits until all ranks are seen to do so."""
        if not self._draws:
            return
        if self._epoch != self._transport.epoch:
            self._epoch = self._transport.epoch
            self._known.clear()  # a rank that failed may not have learned what others have
        self._key, self._at, self._found, self._settle = key, 0, {}, settle
        self._start = torch.get_rng_state()
        self._generator.set_state(self._start)

    def undo(self) -> None:
        """The call failed: draw in the next one what this one would have drawn, on all ranks."""
        self._settle = _nothing
        if self._draws:
            torch.set_rng_state(self._start)

    def drawing(self, value: str | Target) -> AbstractContextManager[None]:
        """A block in which the task that makes ``value`` is run, or what draws is applied.

        It begins at its place in the stream; how much it draws is learned at its end.
        """
        i = self._index.get(value)
        return nullcontext() if i is None else self._drawn(i)

    @contextmanager
    def _drawn(self, i: int) -> Iterator[None]:
        if self._key not in self._known:
            self._settle()  # ranks that do something else send no offsets
        self._move_to(self._offset(i))
        before = self._generator.get_state()
        torch.set_rng_state(before)
        yield
        if self._key in self._known:
            return
        own = self._draws[i].own
        self._found[i] = 0 if own else words_between(before, torch.get_rng_state())
        self._reached = self._at + self._found[i]
        if i + 1 < len(self._draws) and self._draws[i + 1].rank != self._transport.rank:
            self._transport.send_object(self._reached, self._draws[i + 1].rank, OFFSET)

    def end(self) -> None:
        """Leave PyTorch's random state where one process would."""
        if not self._draws:
            return
        if self._key not in self._known:
            every = dict(ChainMap(*self._transport.gather(self._found)))
            self._known[self._key] = [every[i] for i in range(len(self._draws))]
        self._move_to(sum(self._known[self._key]))
        torch.set_rng_state(self._generator.get_state())
        self._settle = _nothing

    def _offset(self, i: int) -> int:
        if self._key in self._known:
            return sum(self._known[self._key][:i])
        if i == 0:
            return 0
        before = self._draws[i - 1].rank
        if before == self._transport.rank:
            return self._reached
        self._transport.task = "the place in the stream of random numbers"
        return int(self._transport.receive_object(before, OFFSET))

    def _move_to(self, offset: int) -> None:
        _skip(self._generator, offset - self._at)
        self._at = offset
