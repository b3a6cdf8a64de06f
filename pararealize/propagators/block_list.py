"""Block lists: what a network computes around its blocks, by its own forward code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.runtime.values.pytree import leaves_of


@final
class Stub(nn.Module):
    """Stands in a list of blocks and acts instead of one; everything else is asked of the block."""

    def __init__(self, block: nn.Module, act: Callable[..., Any]) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "act", act)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What ``act`` makes of the call."""
        return self.act(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Networks look at their blocks' attributes between calls."""
        return getattr(self.__dict__["block"], name)


class _ReachedError(Exception):
    """The last block was called; what follows is not wanted."""


@dataclass(frozen=True)
class OutsideBlocks(ABC):
    """A function of the whole network that runs its forward without its blocks.

    Attributes:
        blocks: paths of the blocks, in order.
        arguments: names of the network's arguments that come as tensors.
        constants: its other arguments.
        extras: where blocks give a tuple, how many ``None`` follow the state; -1: no tuple.

    """

    blocks: tuple[str, ...]
    arguments: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    extras: int

    @abstractmethod
    def __call__(self, root: nn.Module, *values: Any) -> Any:
        """What it gives, of the network that holds the weights and the values it reads."""

    def outside(self, root: nn.Module) -> Iterator[str]:
        """Paths of the largest modules that hold no block, and of the tensors beside them."""
        above = {parent for path in self.blocks for parent in _parents(path)}
        for parent in sorted(above):
            prefix = f"{parent}." if parent else ""
            module = root.get_submodule(parent)
            for name in (*module._modules, *module._parameters, *module._buffers):
                path = f"{prefix}{name}"
                if path not in above and path not in self.blocks:
                    yield path

    def _given(self, state: Tensor) -> Any:
        """What a block gives that gives this state."""
        return state if self.extras < 0 else (state, *[None] * self.extras)

    def _call(self, root: nn.Module, values: tuple[Any, ...]) -> Any:
        given = dict(zip(self.arguments, values, strict=True))
        return type(root).forward(root, **dict(self.constants), **given)

    def _calls(self, root: nn.Module, values: tuple[Any, ...]) -> list[tuple[Any, Any]]:
        """The arguments of every block, when each gives what it takes."""
        calls: list[tuple[Any, Any]] = []

        def note(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            if len(calls) == len(self.blocks):
                raise _ReachedError
            return self._given(leaves_of_call(args, kwargs)[0])

        try:
            with replaced(root, self.blocks, [note] * len(self.blocks)):
                self._call(root, values)
        except _ReachedError:
            pass
        return calls


@final
@dataclass(frozen=True)
class Stem(OutsideBlocks):
    """What the network computes before its blocks: the first one's state."""

    def __call__(self, root: nn.Module, *values: Any) -> Tensor:
        """The state of these inputs."""
        args, kwargs = self._calls(root, values)[0]
        return leaves_of_call(args, kwargs)[0]


@final
@dataclass(frozen=True)
class Context(OutsideBlocks):
    """What blocks are given besides the state, as masks and positions.

    Attributes:
        positions: for every tensor, the block whose call has it and its number there.

    """

    positions: tuple[tuple[int, int], ...] = ()

    def __call__(self, root: nn.Module, *values: Any) -> tuple[Tensor, ...]:
        """The tensors for these inputs; the caller's random numbers do not move."""
        with torch.random.fork_rng(devices=_devices(values)):
            calls = self._calls(root, values)
        return tuple(leaves_of_call(*calls[block])[leaf] for block, leaf in self.positions)


@final
@dataclass(frozen=True)
class Item:
    """One of several values, as a function of the network."""

    index: int

    def __call__(self, _root: nn.Module, values: tuple[Tensor, ...]) -> Tensor:
        """The value."""
        return values[self.index]


@final
@dataclass(frozen=True)
class Head(OutsideBlocks):
    """What the network computes after its blocks, from the last one's state.

    Its forward runs once more with the state in place of the blocks. What it draws at random
    before them is not drawn again.
    """

    def __call__(self, root: nn.Module, state: Tensor, *values: Any) -> Any:
        """The network's output."""
        devices = _devices((state, *values))
        before = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]

        def inject(*_args: Any, **_kwargs: Any) -> Any:
            torch.set_rng_state(before[0])
            for device, numbers in zip(devices, before[1:], strict=True):
                torch.cuda.set_rng_state(numbers, device)
            return self._given(state)

        with replaced(root, self.blocks, [inject] * len(self.blocks)):
            return self._call(root, values)


@contextmanager
def replaced(
    root: nn.Module, blocks: tuple[str, ...], acts: list[Callable[..., Any]]
) -> Iterator[None]:
    """Other things to do in place of the blocks, for a while.

    A rank has not all of the blocks: for those of others the first of its own is asked.
    """
    parent = root.get_submodule(blocks[0].rpartition(".")[0])
    own = parent._modules
    some = next(block for block in own.values() if block is not None)
    names = (path.rpartition(".")[2] for path in blocks)
    try:
        parent._modules = {
            name: Stub(own.get(name) or some, act) for name, act in zip(names, acts, strict=True)
        }
        yield
    finally:
        parent._modules = own


def leaves_of_call(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among arguments, in order; the first is the state."""
    return [value for value in leaves_of((args, kwargs)) if isinstance(value, Tensor)]


def _devices(values: tuple[Any, ...]) -> list[torch.device]:
    tensors = [value for value in values if isinstance(value, Tensor)]
    return sorted({t.device for t in tensors if t.device.type == "cuda"}, key=str)


def _parents(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path
