"""Block lists: what a network computes around its blocks, by its own forward code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from pararealize.propagators.calls import (
    Arguments,
    Calls,
    Place,
    cuda_of,
    stream_of,
)
from pararealize.runtime.effects.statistics import frozen_statistics
from pararealize.runtime.values.pytree import leaves_of, tensors_of


@dataclass(frozen=True)
class OutsideBlocks(ABC):
    """A function of the whole network that runs its forward without its blocks.

    Attributes:
        calls: how it calls them.
        needs: tensors of blocks that it reads, which come before the network's inputs.
        replays: calls before which random numbers are drawn that it reads; where the generators
            were is told after the tensors.

    """

    calls: Calls
    needs: tuple[Place, ...] = ()
    replays: tuple[int, ...] = ()

    #: Whether statistics move by what runs behind the last block before the end of the run: all
    #: that goes before is run by others as well.
    moves: ClassVar[bool] = True

    @property
    def of_blocks(self) -> int:
        """How many of the values that it reads come before the network's inputs."""
        return len(self.needs) + len(self.replays)

    @abstractmethod
    def __call__(self, root: nn.Module, *values: Any) -> Any:
        """What it gives, of the network that holds the weights and the values it reads."""

    def outside(self, root: nn.Module) -> Iterator[str]:
        """Paths of the largest modules that hold no block, and of the tensors beside them."""
        return self.calls.outside(root)

    def _run(
        self, root: nn.Module, values: tuple[Any, ...], until: int | None
    ) -> tuple[list[Arguments], Any]:
        first, then = len(self.needs), self.of_blocks
        known = dict(zip(self.needs, values[:first], strict=True))
        streams = dict(zip(self.replays, values[first:then], strict=True))
        with ExitStack() as frozen:
            frozen.enter_context(frozen_statistics(self.around(root)))
            moves = frozen.close if self.moves else None
            return self.calls.run(root, values[then:], known, until, streams, moves)

    def around(self, root: nn.Module) -> Iterator[nn.Module]:
        """The modules that are no part of a block: what holds the lists of them, and the others."""
        yield from self.calls.above(root)
        for path in self.outside(root):
            owner, _, name = path.rpartition(".")
            module = root.get_submodule(owner)._modules.get(name)
            if module is not None:
                yield from module.modules()


@final
@dataclass(frozen=True)
class Between(OutsideBlocks):
    """What the network computes between two blocks, or before the first: arguments of a call.

    Attributes:
        until: the number of the call.
        leaves: the tensors among its arguments, by their place among all of them.
        tells: whether it says where the generators were, after the tensors.

    """

    until: int = 0
    leaves: tuple[int, ...] = (0,)
    tells: bool = False

    def __call__(self, root: nn.Module, *values: Any) -> Any:
        """The tensor, or the tuple of them where they are several."""
        stream = (stream_of(cuda_of(values), like=values),) if self.tells else ()
        calls, _ = self._run(root, values, self.until)
        found = leaves_of(calls[self.until])
        kept = self._apart([found[leaf] for leaf in self.leaves], values[self.of_blocks :])
        chosen = (*kept, *stream)
        return chosen[0] if len(chosen) == 1 else chosen

    @staticmethod
    def _apart(tensors: list[Tensor], inputs: tuple[Any, ...]) -> list[Tensor]:
        """Tensors on memory that is not the caller's: a block may write on what it is given."""
        if torch.compiler.is_compiling():
            return [tensor.clone() for tensor in tensors]
        theirs = {t.untyped_storage().data_ptr() for t in tensors_of(inputs)}
        shared = [t.untyped_storage().data_ptr() in theirs for t in tensors]
        return [t.clone() if same else t for t, same in zip(tensors, shared, strict=True)]


@final
@dataclass(frozen=True)
class Context(OutsideBlocks):
    """What blocks are given besides states, as masks, positions and sizes.

    Attributes:
        positions: for every value, the call that has it and its number among all arguments there.

    """

    moves: ClassVar[bool] = False
    positions: tuple[tuple[int, int], ...] = ()

    def __call__(self, root: nn.Module, *values: Any) -> tuple[Any, ...]:
        """The values for these inputs; the caller's random numbers do not move."""
        last = max(call for call, _ in self.positions)
        with torch.random.fork_rng(devices=cuda_of(values)):
            calls, _ = self._run(root, values, last)
        return tuple(leaves_of(calls[call])[leaf] for call, leaf in self.positions)


@final
@dataclass(frozen=True)
class Item:
    """One of several values, as a function of the network."""

    index: int

    def __call__(self, _root: nn.Module, values: tuple[Any, ...]) -> Any:
        """The value."""
        return values[self.index]


@final
@dataclass(frozen=True)
class Head(OutsideBlocks):
    """What the network computes after its blocks, from what they gave."""

    def __call__(self, root: nn.Module, *values: Any) -> Any:
        """The network's output."""
        return self._run(root, values, None)[1]


def redrawn(state: Tensor, training: bool, draws: tuple[tuple[str, Any, Any], ...]) -> Tensor:
    """The state, after random numbers that a network draws between two blocks and does not use."""
    if training:
        for name, args, kwargs in draws:
            operator, _, overload = name.partition(".")
            getattr(getattr(torch.ops.aten, operator), overload)(*args, **kwargs)
    return state
