"""Saved: what a plan decided, decided again."""

from __future__ import annotations

from dataclasses import replace

from pararealize.cut.cut import cut_at
from pararealize.errors import CutError
from pararealize.ir.chain import Chain, Partition
from pararealize.ir.plan import Plan


def cut_as(chain: Chain, plan: Plan) -> Partition:
    """The partition of a saved plan: where it was cut, with a head where it has one.

    Costs decide on heads, and those of the network that was saved may have been measured ones.

    Raises:
        CutError: the chain has no such interfaces, or other layers.

    """
    partition = cut_at(chain, plan.cuts, plan.n)
    count, last = len(chain.layers), plan.pieces[-1]
    start = partition.bounds[-2]
    end = start + last.depth if plan.head else count
    if not start < end <= count or (plan.head and end == count):
        raise CutError(
            f"subnetwork {plan.n} has {last.depth} layers{' before a head' if plan.head else ''}, "
            f"and here {count - start} layers follow subnetwork {plan.n - 1}."
        )
    return replace(partition, bounds=(*partition.bounds[:-1], end))
