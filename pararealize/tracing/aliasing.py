"""Aliasing: values that share memory which somebody writes on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from pararealize.ir.program import AMBIENT, Kind, Operation, Program
from pararealize.propagators.memory import memory_of, written_by
from pararealize.propagators.repeatable import Repeatable
from pararealize.propagators.shape_table import ShapeQuery, is_size
from pararealize.tracing.kinds import ATTRIBUTES

#: What ``y += …`` computes, besides writing on y.
PLAIN: Mapping[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


@dataclass(frozen=True)
class _Memory:
    """Values that may share memory, and where the first and last ones to be written are written.

    ``ambient`` are the positions of the last uses of inputs and attributes among them.
    """

    values: frozenset[str]
    first: int
    last: int
    ambient: tuple[int, ...]

    def is_parted(self, position: int, live: Sequence[str]) -> bool:
        """Whether a write on one side would have to be seen on the other.

        A subnetwork writes on copies of what it is given: that is the same as long as nothing else
        that shares the memory is read afterwards.
        """
        later = sum(use >= position for use in self.ambient)
        crossing = sum(name in self.values for name in live) + later
        return (self.first < position and later > 0) or (self.last >= position and crossing > 1)


def parting(program: Program, root: nn.Module) -> Callable[[int, Sequence[str]], bool]:
    """Whether a position, crossed by the given live values, would part memory that is written."""
    writes: dict[str, list[int]] = {}
    for i, operation in enumerate(program):
        for name in written_by(operation, root):
            writes.setdefault(name, []).append(i)
    memories = _memories(program, root, writes) if writes else []
    by_value = {name: memory for memory in memories for name in memory.values}
    always = [memory for memory in memories if memory.ambient]

    def parts(position: int, live: Sequence[str]) -> bool:
        concerned = [*always, *(by_value[name] for name in live if name in by_value)]
        return any(memory.is_parted(position, live) for memory in concerned)

    return parts


def written_where_it_shows(program: Program, root: nn.Module) -> Program:
    """The program with ``y += …`` as ``y = y + …`` wherever nothing else sees the difference."""
    if not any(operation.target in PLAIN for operation in program):
        return program
    last_use = {name: i for i, operation in enumerate(program) for name in operation.uses}
    shared = {name: group for group in sharing(program, root) for name in group}

    def shows(i: int, written: str) -> bool:
        others = (name for name in shared[written] if program.index[name] < i)
        return any(last_use.get(n, -1) > i or program[n].kind == "attribute" for n in others)

    operations = []
    for i, operation in enumerate(program):
        plain, first = PLAIN.get(operation.target), written_by(operation, root)
        hidden = plain is not None and (not first or not shows(i, first[0]))
        operations.append(replace(operation, target=plain) if hidden else operation)
    return Program(tuple(operations))


def _memories(program: Program, root: nn.Module, writes: dict[str, list[int]]) -> list[_Memory]:
    """The memories that are written on."""
    last_use = {name: i for i, operation in enumerate(program) for name in operation.uses}
    memories = []
    for values in sharing(program, root):
        positions = [i for name in values & writes.keys() for i in writes[name]]
        if positions:
            ambient = tuple(last_use.get(n, -1) for n in values if program[n].kind in AMBIENT)
            memories.append(_Memory(frozenset(values), min(positions), max(positions), ambient))
    return memories


def sharing(program: Program, root: nn.Module) -> Iterator[set[str]]:
    """Values that may share memory, together; sizes have none."""
    import networkx as nx  # noqa: PLC0415  it is slow to import, and needed to compile alone

    graph = nx.Graph()
    numbers: set[str] = set()
    for operation in program:
        graph.add_node(operation.name)
        plain = _of_inputs(operation)
        if is_size(plain, numbers) or _is_no_tensor(plain):
            numbers.add(operation.name)
            continue
        used = memory_of(operation, root)
        graph.add_edges_from((operation.name, n) for n in used if n not in numbers)
    found: Iterator[set[str]] = nx.connected_components(graph)
    return found


def _of_inputs(operation: Operation) -> Operation:
    """What every subnetwork computes for itself, as the function or method that it was."""
    call = operation.target
    if operation.kind != "context" or not isinstance(call, Repeatable):
        return operation
    kind: Kind = "method" if call.is_method else "function"
    return (
        operation
        if isinstance(call.call, ShapeQuery)
        else replace(operation, kind=kind, target=call.call)
    )


def _is_no_tensor(operation: Operation) -> bool:
    """Whether a value is a flag, a device or a dtype."""
    told = operation.target is getattr and operation.args[1] in ATTRIBUTES
    return told or operation.kind == "training"
