"""Features: what a segment computes of the network's inputs alone, once a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pararealize.ir.chain import Chain, Cost
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


@dataclass(frozen=True)
class Features:
    """Values of a slice that do not depend on its state: what a recurrent network sees.

    ``segment`` computes them; ``names`` are its results, in order.
    """

    segment: Segment
    names: tuple[str, ...]
    cost: Cost


def find_features(chain: Chain, first: int, last: int) -> Features | None:
    """The features of the layers ``first`` … ``last - 1``; ``None`` where there are none.

    Only where the train and eval programs are the same: both then have one set of names.
    """
    if first == 0 or chain.train is not chain.eval:
        return None
    segment = chain.segment(first, last, training=True)
    operations = independent(segment)
    if not any(operation.uses for operation in operations):
        return None
    inside = {operation.name for operation in operations}
    later = [o for o in segment.operations if o.name not in inside and o.kind not in AMBIENT]
    read = {name for operation in later for name in operation.uses} | set(segment.results or ())
    names = tuple(o.name for o in operations if o.name in read)
    body = with_ambient(segment, operations, names)
    return Features(body, names, chain.profile.cost(operations)) if names else None
