"""Features: what a segment computes of the network's inputs alone, once a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pararealize.ir.chain import Chain, Cost
from pararealize.ir.program import Operation, Segment, with_ambient


def without(segment: Segment, names: tuple[str, ...]) -> Segment:
    """The segment with features as arguments instead of what computes them."""
    inside = {operation.name for operation in independent(segment)}
    kept = [o for o in segment.own_operations if o.name not in inside]
    return replace(_part(segment, kept, segment.state, segment.results), features=names)


def split(segment: Segment, name: str) -> tuple[Segment, Segment] | None:
    """What makes a value, and the rest as a function of it; ``None`` if that reads others too."""
    own = segment.own_operations
    made = [o.name for o in own]
    if name not in made:
        return None
    at = made.index(name) + 1
    lead = _part(segment, own[:at], segment.state, (name,))
    rest = _part(segment, own[at:], (name,), segment.results)
    before = {*made[:at], *segment.state} - {name}
    read = {used for o in own[at:] for used in o.uses} | set(segment.results or ())
    return (lead, rest) if read.isdisjoint(before) else None


def independent(segment: Segment) -> list[Operation]:
    """Operations that no value of the state reaches."""
    reached = set(segment.state)
    found: list[Operation] = []
    for operation in segment.own_operations:
        if reached.isdisjoint(operation.uses) and operation.kind != "output":
            found.append(operation)
        else:
            reached.add(operation.name)
    return found


def _part(
    segment: Segment,
    operations: Sequence[Operation],
    state: tuple[str, ...],
    results: tuple[str, ...] | None,
) -> Segment:
    """A segment of some of a segment's operations and of the ambient ones that they read."""
    return with_ambient(segment.operations, segment.inputs, operations, state, results)


@dataclass(frozen=True)
class Features:
    """Values of a slice that do not depend on its state: what a recurrent network sees.

    ``segment`` computes them; they are its results, in order.
    """

    segment: Segment
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
    later = [o for o in segment.own_operations if o.name not in inside]
    read = {name for operation in later for name in operation.uses} | set(segment.results or ())
    names = tuple(o.name for o in operations if o.name in read)
    part = _part(segment, operations, (), names)
    return Features(part, chain.profile.cost(operations)) if names else None
