"""Around: the program of a network around its blocks, written from how it calls them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pararealize.ir.program import FIXED, Operation, Program, Ref
from pararealize.propagators.block_list import Between, Context, Head, Item, redrawn
from pararealize.propagators.calls import Calls, Place
from pararealize.runtime.values.pytree import leaves_of
from pararealize.tracing.apart import Watched
from pararealize.tracing.links import Gap


def inputs_of(
    model: nn.Module, tensors: Mapping[str, Any], others: Mapping[str, Any]
) -> list[Operation]:
    """The network's arguments, of which those that are no tensors have one value."""
    found = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            continue
        name, default = parameter.name, parameter.default
        args = () if default is parameter.empty else (default,)
        fixed = {} if name in tensors else {FIXED: others.get(name, *args)}
        found.append(Operation(name, "input", name, args, fixed))
    return found


def written(
    inputs: list[Operation], calls: Calls, gaps: Sequence[Gap], seen: Sequence[Watched]
) -> Program:
    """The operations of the network around and in its blocks."""
    writer = _Writer(calls, gaps)
    for number, call in enumerate(seen):
        writer.before(number, call)
        writer.block(number, call)
    head = Head(calls, gaps[-1].needs, gaps[-1].replays)
    writer.add(Operation("head", "network", head, (*writer.needed(gaps[-1]), *writer.reads)))
    writer.add(Operation("output", "output", "output", (Ref("head"),)))
    return Program((*inputs, *writer.operations))


class _Writer:
    """Writes call after call; knows what every tensor is called."""

    def __init__(self, calls: Calls, gaps: Sequence[Gap]) -> None:
        self.calls, self.gaps = calls, gaps
        self.operations: list[Operation] = []
        self.reads = tuple(Ref(name) for name in calls.arguments)
        self.places: dict[Place, Ref] = {}
        self.taken: dict[tuple[int, int], Ref] = {}
        self.streams: dict[int, Ref] = {}
        self.wanted = _wanted(gaps)
        self.trains = False

    def add(self, operation: Operation) -> Ref:
        """Write one operation."""
        self.operations.append(operation)
        return Ref(operation.name)

    def needed(self, gap: Gap) -> tuple[Ref, ...]:
        """The tensors of blocks that a gap reads, and where generators were before it."""
        tensors = (self.places[place] for place in gap.needs)
        return (*tensors, *(self.streams[earlier] for earlier in gap.replays))

    def before(self, number: int, call: Watched) -> None:
        """What is computed before a call."""
        gap = self.gaps[number]
        name = f"before_{number}" if number else "stem"
        if gap.carried:
            tensors = [i for i, v in enumerate(_leaves(call)) if isinstance(v, Tensor)]
            carried = tuple(tensors[leaf] for leaf in gap.carried)
            between = Between(self.calls, gap.needs, gap.replays, number, carried, gap.tells)
            reads = (*self.needed(gap), *self.reads)
            made = self.add(Operation(name, "network", between, reads))
            single = len(carried) + gap.tells == 1
            for i, leaf in enumerate(gap.carried):
                ref = made if single else self._item(f"{name}_{i}", made, (i,))
                self.taken[number, leaf] = ref
            if gap.tells:
                self.streams[number] = self._item(f"{name}_stream", made, (len(carried),))
        for leaf, link in enumerate(gap.links):
            if link is not None:
                self.taken[number, leaf] = self._linked(link)
        if gap.draws and number:
            self._draw(number, gap)
        self._context(number, gap, call)

    def _linked(self, link: Any) -> Ref:
        return self.taken[link[1:]] if link[0] == "same" else self.places[link]

    def _draw(self, number: int, gap: Gap) -> None:
        """Draw again what the network draws between two blocks."""
        leaf = next(i for i, link in enumerate(gap.links) if link and link[0] != "same")
        if not self.trains:
            self.operations.insert(0, Operation("training_of_root", "training", ""))
            self.trains = True
        args = (self.taken[number, leaf], Ref("training_of_root"), gap.draws)
        drawn = Operation(f"drawn_{number}", "function", redrawn, args)
        self.taken[number, leaf] = self.add(drawn)

    def _context(self, number: int, gap: Gap, call: Watched) -> None:
        """Values of the inputs alone that the call is given, and sizes among its arguments."""
        tensors = -1
        places: list[tuple[int, int]] = []
        for position, value in enumerate(_leaves(call)):
            if isinstance(value, Tensor):
                tensors += 1
                if tensors in gap.context:
                    places.append((position, tensors))
        if not places:
            return
        name = f"context_{number}"
        positions = tuple((number, position) for position, _ in places)
        whole = self.add(
            Operation(name, "context", Context(self.calls, positions=positions), self.reads)
        )
        for i, (_, leaf) in enumerate(places):
            item = Operation(f"{name}_{i}", "context", Item(i), (whole,))
            self.taken[number, leaf] = self.add(item)

    def block(self, number: int, call: Watched) -> None:
        """A call, and the tensors in what it gives that something reads."""
        count = sum(path == call.path for path in self.calls.blocks[:number])
        name = call.path.replace(".", "_") + (f"_call_{count + 1}" if count else "")
        refs = iter([self.taken[number, leaf] for leaf in range(len(self.gaps[number].links))])
        args, kwargs = _refer(call.args, refs), _refer(call.kwargs, refs)
        made = self.add(Operation(name, "module", call.path, args, kwargs, scope=call.path))
        for k, route in enumerate(_routes(call.result)):
            place = (number, k)
            if place in self.wanted:
                suffix = "_state" if k == 0 else f"_{k}"
                self.places[place] = self._item(f"{name}{suffix}", made, route, call.path)

    def _item(self, name: str, whole: Ref, route: Sequence[Any], scope: str = "") -> Ref:
        """One of the values in another, which is a container."""
        for depth, key in enumerate(route):
            last = depth + 1 == len(route)
            each = name if last else f"{name}_in_{depth}"
            whole = self.add(
                Operation(each, "function", operator.getitem, (whole, key), scope=scope)
            )
        return whole


def _wanted(gaps: Sequence[Gap]) -> set[Place]:
    """The places that something reads."""
    needed = {place for gap in gaps for place in gap.needs}
    return needed | {link for gap in gaps for link in gap.links if link and link[0] != "same"}  # type: ignore[misc]


def _leaves(call: Watched) -> list[Any]:
    return leaves_of((call.args, call.kwargs))


def _routes(value: Any) -> Iterator[tuple[Any, ...]]:
    """For every tensor in a value, the keys that lead to it."""
    if isinstance(value, Tensor):
        yield ()
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from ((i, *route) for route in _routes(item))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ((key, *route) for route in _routes(item))


def _refer(value: Any, refs: Iterator[Ref]) -> Any:
    """The arguments with references in place of tensors, in order."""
    if isinstance(value, Tensor):
        return next(refs)
    if isinstance(value, (tuple, list)):
        return tuple(_refer(item, refs) for item in value)
    if isinstance(value, dict):
        return {key: _refer(item, refs) for key, item in value.items()}
    return value
