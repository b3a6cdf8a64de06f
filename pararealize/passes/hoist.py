"""Hoist: what a slice computes of the network's inputs alone, once a step, not in every cycle."""

from __future__ import annotations

from dataclasses import dataclass

from pararealize.ir.chain import Chain, Cost
from pararealize.ir.features import independent, with_ambient
from pararealize.ir.program import AMBIENT, Segment


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
