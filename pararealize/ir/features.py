"""Features: the part of a segment that depends on the network's inputs alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pararealize.ir.program import AMBIENT, Operation, Segment


def without(segment: Segment, names: tuple[str, ...]) -> Segment:
    """The segment with features as arguments instead of what computes them."""
    inside = {operation.name for operation in independent(segment)}
    kept = [o for o in segment.operations if o.name not in inside and o.kind not in AMBIENT]
    rest = with_ambient(segment, kept, segment.results)
    return replace(rest, state=segment.state, features=names)


def split(segment: Segment, name: str) -> tuple[Segment, Segment] | None:
    """What makes a value, and the rest as a function of it; ``None`` if that reads others too."""
    body = [o for o in segment.operations if o.kind not in AMBIENT]
    made = [o.name for o in body]
    if name not in made:
        return None
    at = made.index(name) + 1
    lead = replace(with_ambient(segment, body[:at], (name,)), state=segment.state)
    rest = replace(with_ambient(segment, body[at:], segment.results), state=(name,))
    before = {*made[:at], *segment.state} - {name}
    read = {used for o in body[at:] for used in o.uses} | set(segment.results or ())
    return (lead, rest) if read.isdisjoint(before) else None


def independent(segment: Segment) -> list[Operation]:
    """Operations that no value of the state reaches."""
    reached = set(segment.state)
    found: list[Operation] = []
    for operation in segment.operations:
        if operation.kind in AMBIENT:
            continue
        if reached.isdisjoint(operation.uses) and operation.kind != "output":
            found.append(operation)
        else:
            reached.add(operation.name)
    return found


def with_ambient(
    segment: Segment, operations: Iterable[Operation], results: tuple[str, ...] | None
) -> Segment:
    """A segment of some operations and of the ambient ones that they read."""
    body = list(operations)
    read = {name for operation in body for name in operation.uses}
    for operation in reversed(segment.operations):
        if operation.kind == "context" and operation.name in read:
            read.update(operation.uses)
    ambient = [o for o in segment.operations if o.kind in AMBIENT and o.name in read]
    inputs = tuple(name for name in segment.inputs if name in read)
    return Segment((*ambient, *body), (), inputs, results)
