"""Calls: a network's own forward, run with stand-ins for its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.errors import StaleError
from pararealize.ir.target import ADDED
from pararealize.propagators.expected import Expected
from pararealize.propagators.left_out import how_to_keep
from pararealize.propagators.stubs import replaced
from pararealize.runtime.values.pytree import Structure, flatten, leaves_of, map_tensors, unflatten

#: A tensor that a block gave: the number of the call, and of the tensor in what it gave.
Place = tuple[int, int]
#: The arguments of one call.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class _ReachedError(Exception):
    """The block was called; what follows is not wanted."""


@final
@dataclass(frozen=True)
class Slot:
    """A tensor in what a block gives; ``like`` is the argument of its shape, or -1."""

    like: int


@final
@dataclass(frozen=True)
class Given:
    """What a block gives: plain values and slots of tensors, and what holds them."""

    leaves: tuple[Any, ...]
    structure: Structure

    def made(self, tensors: list[Tensor], known: Mapping[int, Tensor]) -> Any:
        """The same with these tensors; where one is not known, with an argument in its place."""
        made: list[Any] = []
        slots = 0
        for leaf in self.leaves:
            if isinstance(leaf, Slot):
                like = min(max(leaf.like, 0), len(tensors) - 1)  # masks may be missing
                stand_in = tensors[like] if tensors else None
                made.append(known.get(slots, stand_in))
                slots += 1
            else:
                made.append(leaf)
        return unflatten(made, self.structure)


@final
@dataclass(frozen=True, eq=False)
class Calls:
    """How a network calls its blocks.

    Attributes:
        blocks: paths of the blocks, call after call.
        arguments: names of the network's arguments that come as tensors.
        constants: its other arguments.
        given: what each call gave.
        attributes: plain attributes of the blocks, by path.
        writes: whether the network writes on what blocks gave.
        expected: what each call is handed besides tensors.

    """

    blocks: tuple[str, ...]
    arguments: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    given: tuple[Given, ...] = field(repr=False)
    attributes: Mapping[str, Mapping[str, Any]] = field(repr=False, default_factory=dict)
    writes: bool = False
    expected: tuple[Expected, ...] = ()

    def __repr__(self) -> str:
        return f"{self.blocks[0]} … {self.blocks[-1]}"

    def outside(self, root: nn.Module) -> Iterator[str]:
        """Paths of the largest modules that hold no block, and of the tensors beside them.

        The coarse and guess networks that a network holds once it is compiled are not among them.
        """
        blocks, above = self._places
        for parent in above:
            prefix = f"{parent}." if parent else ""
            module = root
            for name in filter(None, parent.split(".")):
                module = module._modules.get(name) or nn.Module()  # nothing of it on this rank
            for name in (*module._modules, *module._parameters, *module._buffers):
                path = f"{prefix}{name}"
                if path not in above and path not in blocks and path not in ADDED:
                    yield path

    def above(self, root: nn.Module) -> Iterator[nn.Module]:
        """The network, and what in it holds its blocks; a rank has not all of that."""
        for path in self._places[1]:
            module: nn.Module | None = root
            for name in filter(None, path.split(".")):
                module = module._modules.get(name) if module is not None else None
            if module is not None:
                yield module

    @cached_property
    def _places(self) -> tuple[frozenset[str], dict[str, None]]:
        """The blocks, and what lies above them."""
        blocks = frozenset(self.blocks)
        return blocks, dict.fromkeys(sorted({p for path in blocks for p in parents(path)}))

    def run(
        self,
        root: nn.Module,
        values: tuple[Any, ...],
        known: Mapping[Place, Tensor],
        until: int | None = None,
        streams: Mapping[int, Tensor] | None = None,
        reached: Callable[[], None] | None = None,
    ) -> tuple[list[Arguments], Any]:
        """The network's forward with ``known`` tensors in place of what blocks give.

        It gives the arguments of every call, of which the one numbered ``until`` is the last, and
        the output where there is none. What the network draws at random before the last block
        that is passed over is not drawn again; ``streams`` say where the generators were before a
        call, for those gaps whose numbers are read. ``reached`` is told when what runs next is
        behind the last block that is passed over.

        Raises:
            StaleError: it calls other blocks than when it was compiled.
            ShapeError: it hands them other values that are no tensors.

        """
        calls: list[Arguments] = []
        last = len(self.blocks) if until is None else until
        devices = cuda_of((*values, *known.values()))
        begins = {last: stream_of(devices), **(streams or {})}

        def act(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            number = len(calls)
            calls.append((args, kwargs))
            if number >= len(self.blocks) or self.blocks[number] != path:
                raise StaleError(self._other(root, path, number))
            if self.expected:
                self.expected[number].check(args, kwargs)
            if number == until:
                raise _ReachedError
            if number + 1 in begins:
                set_stream(begins[number + 1], devices)
            mine = {leaf: value for (call, leaf), value in known.items() if call == number}
            made = self.given[number].made(leaves_of_call(args, kwargs), mine)
            if number + 1 == last and reached is not None:
                reached()
            return map_tensors(torch.clone, made) if self.writes else made

        output = None
        if last and 0 in begins:
            set_stream(begins[0], devices)
        if not last and reached is not None:
            reached()
        with suppress(_ReachedError), replaced(root, self.blocks, act, self.attributes):
            output = self.call(root, values)
        if len(calls) < min(last + 1, len(self.blocks)):
            raise StaleError(self._other(root, "no block", len(calls)))
        return calls, output

    def call(self, root: nn.Module, values: tuple[Any, ...]) -> Any:
        """The network's forward, whose tensors are ``values``."""
        given = {**dict(self.constants), **dict(zip(self.arguments, values, strict=True))}
        return type(root).forward(root, **keywords(given))

    def _other(self, root: nn.Module, path: str, number: int) -> str:
        wanted = self.blocks[number] if number < len(self.blocks) else "its end"
        return (
            f"the network calls {path} where it called {wanted} when it was compiled (call "
            f"{number + 1} of {len(self.blocks)}): its blocks are to run in one order. If it "
            f"leaves some out at random: {how_to_keep(root)}"
        )


def given_of(result: Any, arguments: list[Tensor]) -> Given:
    """What a block gave, as plain data."""
    leaves, structure = flatten(result)

    def slot(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        same = (
            i for i, a in enumerate(arguments) if (a.shape, a.dtype) == (leaf.shape, leaf.dtype)
        )
        return Slot(next(same, -1))

    return Given(tuple(map(slot, leaves)), structure)


def keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, those of a ``**`` parameter among the others."""
    named = {name: value for name, value in given.items() if not name.startswith("**")}
    for name in given.keys() - named.keys():
        named |= given[name]
    return named


def leaves_of_call(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among arguments, in order; the first is the state."""
    return [value for value in leaves_of((args, kwargs)) if isinstance(value, Tensor)]


def stream_of(devices: Sequence[torch.device], like: tuple[Any, ...] = ()) -> Tensor:
    """Where the generators of the CPU and of CUDA devices are, as bytes."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in devices)]
    bytes_ = torch.cat(states)
    is_meta = any(isinstance(value, Tensor) and value.is_meta for value in like)
    return bytes_.to("meta") if is_meta else bytes_


def set_stream(stream: Tensor, devices: Sequence[torch.device]) -> None:
    """Put the generators where :func:`stream_of` has found them.

    Not where only the shapes of a network are asked for, with tensors without numbers or of zeros.
    """
    if stream.is_meta or not stream.any():
        return
    sizes = [torch.cuda.get_rng_state(d).numel() for d in devices]
    first, *others = stream.cpu().split([stream.numel() - sum(sizes), *sizes])
    torch.set_rng_state(first.clone())
    for device, state in zip(devices, others, strict=True):
        torch.cuda.set_rng_state(state.clone(), device)


def cuda_of(values: tuple[Any, ...]) -> list[torch.device]:
    """The CUDA devices of tensors, also of those in lists."""
    tensors = [leaf for leaf in leaves_of(values) if isinstance(leaf, Tensor)]
    return sorted({t.device for t in tensors if t.device.type == "cuda"}, key=str)


def parents(path: str) -> Iterator[str]:
    """The modules around the one of a path, up to the network, whose path is empty."""
    while path:
        path = path.rpartition(".")[0]
        yield path
