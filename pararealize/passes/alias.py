"""Aliases: which positions would part values that share memory somebody writes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx
from torch import nn

from pararealize.ir.program import AMBIENT, Operation, Program
from pararealize.propagators.program import memory_of, written_by


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


def _memories(program: Program, root: nn.Module, writes: dict[str, list[int]]) -> list[_Memory]:
    """The memories that are written on."""
    graph = nx.Graph()
    for operation in program:
        graph.add_node(operation.name)
        used = memory_of(operation, root)
        graph.add_edges_from((operation.name, n) for n in used if program[n].kind != "training")
    last_use = {name: i for i, operation in enumerate(program) for name in operation.uses}
    memories = []
    for values in nx.connected_components(graph):
        places = [i for name in values & writes.keys() for i in writes[name]]
        if places:
            ambient = tuple(last_use.get(n, -1) for n in values if _is_ambient(program[n]))
            memories.append(_Memory(frozenset(values), min(places), max(places), ambient))
    return memories


def _is_ambient(operation: Operation) -> bool:
    return operation.kind in AMBIENT
