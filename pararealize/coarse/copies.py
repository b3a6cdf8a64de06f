"""Copies: coarse networks made of a piece's own layers, which start from their weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from pararealize.chain.repeated_blocks import most_repeats, repeated_blocks
from pararealize.coarse.depth_coarsening import coarsened
from pararealize.coarse.pruning import (
    Pruning,
    is_weighted,
    prune,
    without_dead_code,
    without_dropout,
)
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.program import Operation, Segment
from pararealize.propagators.factored import Factored, is_plain, products_left, rank_of
from pararealize.propagators.fresh import Fresh


def replica(chain: Chain, model: nn.Module, first: int, last: int) -> Segment:
    """The piece ``first`` … ``last - 1`` to run with weights of its own, without dropout."""
    return without_dropout(
        chain, model, without_dead_code(chain.segment(first, last, training=True))
    )


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


@dataclass(frozen=True)
class Copy:
    """A copy of a piece or of some of it, what it costs, and the inputs it reads."""

    module: Fresh
    cost: Cost
    inputs: tuple[str, ...]


def copied(chain: Chain, model: nn.Module, first: int, last: int, kind: str) -> Copy | None:
    """The copy of the layers ``first`` … ``last - 1`` that ``kind`` names.

    ``"thinned 2"`` and ``"stepped 2"`` have so many of its repeated blocks, ``"factored 0.5"`` all
    layers with so large a share of their rank, ``"whole"`` all as they are. ``None`` where such a
    copy would have nothing to leave out, or what lies around a list of blocks.
    """
    name, _, number = kind.partition(" ")
    piece = (chain, model, first, last)
    segment: Segment | None
    match name:
        case "thinned":
            segment = thinned(*piece, int(number))
        case "stepped":
            segment = stepped(*piece, int(number))
        case "factored":
            return _factored(*piece, float(number))
        case "whole":
            return _copy(chain, model, replica(*piece))
        case _:
            return None
    fine = chain.segment(first, last, training=True)
    if segment is None or len(segment.operations) >= len(fine.operations):
        return None
    return _copy(chain, model, segment)


def _copy(chain: Chain, model: nn.Module, segment: Segment) -> Copy | None:
    if not can_copy(segment):
        return None
    module = Fresh(model, segment, bias=True, trained=True)
    return Copy(module, chain.profile.cost(segment.operations), segment.inputs)


def _factored(chain: Chain, model: nn.Module, first: int, last: int, share: float) -> Copy | None:
    segment = replica(chain, model, first, last)
    found = _copy(chain, model, segment)
    if found is None or not factor(found.module, share):
        return None
    cost = factored_cost(chain, model, segment.operations, share)
    return Copy(found.module, cost, found.inputs)


def thinned(chain: Chain, model: nn.Module, first: int, last: int, depth: int) -> Segment:
    """With the first of its repeated blocks, as they are."""
    layers = chain.layers[first:last]
    changing = sum(is_weighted(layer) and not layer.preserves for layer in layers)
    runs = repeated_blocks(chain, first, last)
    period = max((run.weighted(chain) for run in runs), default=1)
    how = Pruning(changing + depth * period, normalisation=True, whole=True)
    return prune(chain, model, first, last, how)


def stepped(chain: Chain, model: nn.Module, first: int, last: int, depth: int) -> Segment | None:
    """With so many steps in place of the longest run of residual blocks, and as long ones."""
    stride = -(-most_repeats(chain, first, last) // max(depth, 1))
    found = coarsened(chain, first, last, stride, "rediscretized")
    return None if found is None else without_dropout(chain, model, found.segment)


def can_copy(segment: Segment) -> bool:
    """What lies around a list of blocks has no copy."""
    return not any(operation.kind in {"network", "context"} for operation in segment.operations)
