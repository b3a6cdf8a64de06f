"""Fitting: a network of its own and states of other sizes than those that it was made for.

A guess or coarse network stands for a segment of the network. For inputs of another size it is
called as it is where its answer has the shape of the segment's; where it has not, the answer is
read at as many positions as there have to be, and where it takes no other size, its arguments too:

    y[i] = x[i s // t],    i = 0 … t - 1,    along every axis of size s that is to be t

An axis of which nothing is left out and nothing repeated stays; a causal network stays causal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation, Segment
from pararealize.propagators.meta_run import REFUSALS, MetaRun, on_meta
from pararealize.propagators.quick_shapes import QuickShapes
from pararealize.propagators.shape_table import MOST, form_of
from pararealize.runtime.effects.generators import kept
from pararealize.runtime.values.pytree import flatten, unflatten

Shape = tuple[int, ...]
#: A size that stays as it is.
ANY = -1
Shapes = tuple[Shape | None, ...]


@dataclass(frozen=True)
class Resized:
    """Shapes to give to a network's arguments and to its answer; ``None`` leaves them as they are.

    They are by leaf, and ``None`` of a leaf that is no tensor.
    """

    before: Shapes | None = None
    after: Shapes | None = None


@final
class Twin:
    """A network on the meta device, which is copied when it is first asked for."""

    def __init__(self, copied: Callable[[], nn.Module]) -> None:
        self._copied = copied
        self._network: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        """The copy."""
        if self._network is None:
            self._network = self._copied()
        return self._network

    def settle(self, network: nn.Module) -> None:
        """Take this copy, as what could be copied is to lose its layers."""
        self._network = network
        self._copied = lambda: network

    def __getstate__(self) -> dict[str, Any]:
        """All but what it can find again."""
        return {**self.__dict__, "_network": None}


@final
class Fitting:
    """Calls a network of its own with states and inputs of any size that the segment takes.

    Args:
        segment: what it stands for.
        inputs: names of the network's inputs that it reads besides the state.
        known: shapes but for the batch, by leaf, of the state and the inputs it was made for.
        results: the same of what the segment gives, by the values' names.
        twin: the network that the segment is of.

    """

    def __init__(
        self,
        segment: Segment,
        inputs: tuple[str, ...],
        known: Iterable[Shape | None],
        results: Mapping[str, Shape],
        twin: Twin,
    ) -> None:
        self.segment, self.twin = segment, twin
        self.known, self.names = list(known), tuple(results)
        self.results = tuple(results.values())
        self.others = tuple(name for name in segment.inputs if name not in inputs)
        self._names = (*segment.state, *inputs, *self.others)
        self._found: dict[Any, Resized] = {}
        self._module: int | None = None

    def __call__(self, module: nn.Module, call: Callable[..., Any], *values: Any) -> Any:
        """The network's answer for the state and inputs; ``others`` come after them.

        ``call`` runs it: the module itself, or what stands for it.
        """
        own = values[: len(values) - len(self.others)]
        if torch.compiler.is_compiling() or self._is_known(own):
            return call(*own)
        resized = self._resized(module, own, values)
        if resized.before is not None:
            own = _all_with_shapes(own, resized.before)
        answer = call(*own)
        return answer if resized.after is None else _with_shapes(answer, resized.after)

    def _is_known(self, values: tuple[Any, ...]) -> bool:
        """Whether at most the batch is another one."""
        return [_inner(leaf) for value in values for leaf in flatten(value)[0]] == self.known

    def _resized(self, module: nn.Module, own: tuple[Any, ...], every: tuple[Any, ...]) -> Resized:
        if self._module != id(module) or len(self._found) >= MOST:
            self._found, self._module = {}, id(module)
        key = form_of(every)
        if key not in self._found:
            self._found[key] = self._decided(module, own, every)
        return self._found[key]

    def _decided(self, module: nn.Module, own: tuple[Any, ...], every: tuple[Any, ...]) -> Resized:
        wanted, answer = self._wanted(every), _answered(module, own)
        if answer is None:
            before = self._as_known(own)
            if before is None or _answered(module, _all_with_shapes(own, before)) is None:
                return Resized()  # numbers decide, not sizes
            pairs = zip(wanted, self.results, strict=True)
            after = tuple(self._scaled(own, b) if a is None else a for a, b in pairs)
            return Resized(before, after)
        same = len(wanted) == len(answer) and all(
            a is None or a == b for a, b in zip(wanted, answer, strict=True)
        )
        return Resized() if same else Resized(None, wanted)

    def _wanted(self, every: tuple[Any, ...]) -> Shapes:
        """Shapes of the segment's results; ``None`` of one that numbers decide."""
        given = (Operation(name, "input", name) for name in self._names)
        run = MetaRun(self.twin.network, True, dict(zip(self._names, every, strict=True)))
        with run.running():
            for operation in (*given, *self.segment.operations):
                run.attempt(operation)
        return tuple(_shape(run.values.get(name)) for name in self.names)

    def _scaled(self, values: tuple[Any, ...], known: Shape) -> Shape:
        """A shape that grows along the axes along which the arguments do, of whatever batch."""
        leaves = [leaf for value in values for leaf in flatten(value)[0]]
        pairs = zip(leaves, self.known, strict=False)
        found = [(now.shape[1:], was) for now, was in pairs if isinstance(now, Tensor) and was]
        alike = [(now, was) for now, was in found if len(was) == len(known)]
        sizes = {was[i]: now[i] for now, was in reversed(found) for i in range(len(was))}
        inner = list(known)
        for i, size in enumerate(known):
            if alike and alike[0][1][i]:
                now, was = alike[0]
                inner[i] = max(1, round(size * now[i] / was[i]))
            else:
                inner[i] = sizes.get(size, size)
        return (ANY, *inner)

    def _as_known(self, values: tuple[Any, ...]) -> Shapes | None:
        """The shapes that it was made for, with the batch of the values."""
        leaves = [leaf for value in values for leaf in flatten(value)[0]]
        if len(leaves) != len(self.known):
            return None
        pairs = zip(leaves, self.known, strict=True)
        return tuple(
            None if shape is None or not isinstance(leaf, Tensor) else (*leaf.shape[:1], *shape)
            for leaf, shape in pairs
        )

    def __getstate__(self) -> dict[str, Any]:
        """All but what it can find again."""
        return {**self.__dict__, "_found": {}, "_module": None}


def _inner(leaf: Any) -> Shape | None:
    """All but the batch."""
    return leaf.shape[1:] if isinstance(leaf, Tensor) else None


def _shape(leaf: Any) -> Shape | None:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


def _answered(module: nn.Module, values: tuple[Any, ...]) -> Shapes | None:
    """Shapes of what a module answers; ``None`` where it takes no such values."""
    twin = copy.deepcopy(module).to("meta")
    with torch.no_grad(), torch.device("meta"), QuickShapes(), kept(), suppress(*REFUSALS):
        answer = twin(*(on_meta(value) for value in values))
        return tuple(map(_shape, flatten(answer)[0]))
    return None


def _all_with_shapes(values: tuple[Any, ...], shapes: Shapes) -> tuple[Any, ...]:
    """Arguments whose leaves have these shapes."""
    return tuple(_with_shapes(list(values), shapes))


def _with_shapes(value: Any, shapes: Shapes) -> Any:
    leaves, structure = flatten(value)
    pairs = zip(leaves, shapes, strict=True)
    return unflatten([_read(leaf, shape) for leaf, shape in pairs], structure)


def _read(leaf: Any, shape: Shape | None) -> Any:
    """A tensor read at as many positions of each axis as a shape has."""
    if shape is None or leaf.dim() != len(shape):
        return leaf
    for axis, (before, after) in enumerate(zip(leaf.shape, shape, strict=True)):
        if before != after and before and after != ANY:
            positions = torch.arange(after, device=leaf.device) * before // after
            leaf = leaf.index_select(axis, positions)
    return leaf
