"""Separable: whether a coarse network treats every sample of a batch by itself."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pararealize.ir.chain import State
from pararealize.ir.decisions import Decisions

#: Numbers of slices of a batch that are considered.
COUNTS = (1, 2, 4, 8)


def chunk_counts(decisions: Decisions) -> tuple[int, ...]:
    """Numbers of slices that a batch can be cut into, at least one."""
    batch = _batch(decisions)
    return tuple(count for count in COUNTS if count == 1 or count <= batch)


def inseparable(decisions: Decisions) -> int | None:
    """The first subnetwork whose coarse network does not treat every sample by itself, if any."""
    batch = _batch(decisions)
    for j, coarse in decisions.coarse.items():
        state = decisions.partition.chain.state(decisions.partition.piece(j)[0])
        if j > 1 and (coarse.module is None or not is_separable(coarse.module, state, batch)):
            return j
    return None


def _batch(decisions: Decisions) -> int:
    chain, bounds = decisions.partition.chain, decisions.partition.bounds[1:-1]
    shapes = [spec.shape for bound in bounds for spec in chain.state(bound)]
    return min((shape[0] if shape else 0 for shape in shapes), default=0)


def is_separable(module: nn.Module, state: State, batch: int) -> bool:
    """Whether a network treats every sample of a batch by itself, in train mode as well.

    Seen on a copy with random states: whole, and in two slices.
    """
    if batch < 2 or any(not spec.shape or spec.shape[0] != batch for spec in state):
        return False
    probe = copy.deepcopy(module).train()
    first = next(probe.parameters(), None)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        like = first if first is not None else torch.empty(0, dtype=state[0].dtype)
        leaves = [torch.randn(spec.shape).to(like) for spec in state]
        try:
            whole, *halves = (
                tree_leaves(probe(*(leaf[part] for leaf in leaves)))
                for part in (slice(None), slice(0, 1), slice(1, None))
            )
        except (ValueError, RuntimeError):
            return False  # BatchNorm, for one, refuses a single sample
    return all(_is_joined(*parts) for parts in zip(whole, *halves, strict=True))


def _is_joined(whole: Any, *halves: Any) -> bool:
    if not isinstance(whole, Tensor):
        return False  # a constant has no batch to cut
    joined = torch.cat(halves)
    close = torch.allclose(joined, whole, rtol=1e-3, atol=1e-5)
    return joined.shape == whole.shape and close
