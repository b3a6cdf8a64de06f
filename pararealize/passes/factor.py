"""Factor: a copy of a piece whose layers have weights of low rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from pararealize.ir.chain import Chain, Cost
from pararealize.ir.program import Operation, Segment
from pararealize.passes.thin import pruned, without_dropout
from pararealize.propagators.factored import Factored, is_plain, products_left, rank_of
from pararealize.propagators.fresh import Fresh


def replica(chain: Chain, model: nn.Module, first: int, last: int) -> Segment:
    """The piece ``first`` … ``last - 1`` to run with weights of its own, without dropout."""
    return without_dropout(chain, model, pruned(chain.segment(first, last, training=True)))


def factor(copy: Fresh, share: float) -> list[str]:
    """Give the layers of a copy a share of their largest rank, where that takes less; which."""
    factored = []
    for key, layer in copy.layers.items():
        rank = rank_of(layer, share)
        if rank is not None and is_plain(layer):
            copy.layers[key] = Factored(layer, rank)
            factored.append(key)
    return factored


def factored_cost(
    chain: Chain, model: nn.Module, operations: Iterable[Operation], share: float
) -> Cost:
    """Cost of operations of the network where its layers have a share of their largest rank."""
    return sum((_cost(chain, model, operation, share) for operation in operations), Cost())


def _cost(chain: Chain, model: nn.Module, operation: Operation, share: float) -> Cost:
    cost = chain.profile.cost((operation,))
    if operation.kind != "module":
        return cost
    left = products_left(model.get_submodule(operation.target), share)
    return replace(cost, flops=left * cost.flops, seconds=left * cost.seconds)
