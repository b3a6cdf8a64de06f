"""Live values: what crosses every position of a program."""

from __future__ import annotations

from typing import Any

import networkx as nx

from pararealize.ir.program import AMBIENT, Program


def uses(program: Program) -> Any:
    """Data flow between computing operations, as a ``networkx.DiGraph`` of their names.

    Network inputs, weights and mode flags are no nodes: every segment reads them for itself.
    """
    graph = nx.DiGraph()
    for operation in program:
        if operation.kind not in AMBIENT:
            graph.add_node(operation.name)
            graph.add_edges_from(
                (name, operation.name)
                for name in operation.uses
                if program[name].kind not in AMBIENT
            )
    return graph


def live_values(program: Program, width: int) -> dict[int, tuple[str, ...]]:
    """Positions (just after an operation) crossed by at most ``width`` values, with those values.

    A value is live from its operation to its last use; position i lies before operation i.
    """
    graph = uses(program)
    last = {
        name: max((program.index[user] for user in graph.successors(name)), default=-1)
        for name in graph
    }
    found: dict[int, tuple[str, ...]] = {}
    live: dict[str, int] = {}
    for i, operation in enumerate(program):
        if operation.kind in AMBIENT or operation.kind == "output":
            continue
        if last[operation.name] > i:
            live[operation.name] = last[operation.name]
        live = {name: end for name, end in live.items() if end > i}
        if 0 < len(live) <= width:
            found[i + 1] = tuple(live)
    return found
