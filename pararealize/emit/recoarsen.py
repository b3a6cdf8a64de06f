"""Recoarsen: other coarse propagators in a network that is already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pararealize.emit.emission import Emission
from pararealize.emit.multigrid_propagators import propagators_of, share_masks
from pararealize.errors import MethodError, RankError
from pararealize.ir.decisions import Coarse
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.runtime.communication.transport import together


def recoarsened(
    emission: Emission, whole: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Emission:
    """The emission with coarse propagators that fit today's weights, those of ``whole``.

    Raises:
        MethodError: the network is not multigrid's, or its coarse networks are the user's own.
        RankError: on ranks, coarse steps join slices, whose layers other ranks hold.

    """
    decide, iteration = emission.decide_again, emission.iteration
    if decide is None or iteration is None:
        raise MethodError(
            "net.recoarsen() chooses MGRIT's coarse propagators again, and this network was "
            "compiled with another method: write pararealize(model, n, method=MGRIT(...))."
        )
    if emission.share is not None and _joins(iteration):
        raise RankError(
            "net.recoarsen(): on ranks, coarse steps that join slices may need layers that their "
            "rank does not hold: compile net.to_serial() again, or take fewer levels."
        )
    transport = emission.share.transport if emission.share is not None else None
    with together(transport), nullcontext() if transport is None else transport.alone():
        plan, levels = decide(_on_one_device(whole), args, kwargs, emission.plan)
    if transport is not None:
        plan, levels = transport.exchange((plan, levels))[0]
    return replace(
        emission,
        plan=plan,
        propagators={**emission.propagators, **_coarse(emission, levels)},
        own_streams=any(p.draws for p in propagators_of(levels, whole).values()),
    )


def _coarse(emission: Emission, levels: Mapping[Target, Coarse]) -> dict[Target, Propagator]:
    """Those that this process applies, with the masks that they need."""
    own = {target: choice for target, choice in levels.items() if target in emission.propagators}
    found = propagators_of(own, emission.serial)
    share_masks(found, dict.fromkeys(found, 2))
    return found


def _joins(iteration: Iteration) -> bool:
    return any(level.steps < iteration.levels[0].steps for level in iteration.levels)


def _on_one_device(whole: nn.Module) -> nn.Module:
    first = next(whole.parameters(), torch.empty(0))
    return whole.to(first.device)
