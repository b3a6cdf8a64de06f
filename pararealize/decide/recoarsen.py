"""Recoarsen: other coarse propagators in a multigrid network, as its weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pararealize.coarse.levels import LevelBuilder
from pararealize.cost.inputs import bind
from pararealize.cost.probe import Probe
from pararealize.decide.mgrit_passes import cycles_of, decide_levels
from pararealize.decide.solve_error import Levels, measured_levels
from pararealize.emit.assemble import with_levels
from pararealize.emit.emission import Emission
from pararealize.emit.propagators import borrowing_propagators
from pararealize.errors import MethodError, RankError
from pararealize.ir.decisions import Coarse, Decisions
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Plan
from pararealize.ir.target import Target
from pararealize.runtime.communication.transport import together
from pararealize.runtime.effects.generators import kept


def recoarsened(
    emission: Emission, whole: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Emission:
    """The emission with coarse propagators that fit today's weights, those of ``whole``.

    Errors are measured on the inputs of one call, ``args`` and ``kwargs``, or on random ones.

    Raises:
        MethodError: the network is not multigrid's, or its coarse networks are the user's own.
        RankError: on ranks, coarse steps join slices, whose layers other ranks hold.
        ShapeError: the inputs are not the arguments of the network.

    """
    iteration, transport = _checked(emission), emission.transport
    joins = iteration.levels[-1].steps < iteration.levels[0].steps
    if transport is not None and joins:
        raise RankError(
            "net.recoarsen(): on ranks, coarse steps that join slices may need layers that their "
            "rank does not hold: compile net.to_serial() again, or take fewer levels."
        )
    whole = whole.to(next(whole.parameters(), torch.empty(0)).device)
    with together(transport), nullcontext() if transport is None else transport.alone():
        plan, levels = _decided(emission.decisions, whole, args, kwargs)
    if transport is not None:
        plan, levels = transport.exchange((plan, levels))[0]
    return replace(
        with_levels(emission, levels),
        decisions=replace(emission.decisions, plan=plan),
        own_streams=any(p.draws for p in borrowing_propagators(levels, whole).values()),
    )


def _checked(emission: Emission) -> Iteration:
    iteration, method = emission.decisions.iteration, emission.plan.method
    if iteration is None:
        raise MethodError(
            "net.recoarsen() chooses MGRIT's coarse propagators again, and this network was "
            "compiled with another method: write pararealize(model, n, method=MGRIT(...))."
        )
    if callable(method.coarse):
        raise MethodError(
            "net.recoarsen(): MGRIT(coarse=a function) made networks with weights of their "
            "own, which train with the others: there is nothing to choose again."
        )
    return iteration


def _decided(
    decisions: Decisions, whole: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Plan, Mapping[Target, Coarse]]:
    """The plan and the coarse propagators for the weights of a whole network."""
    plan, method = decisions.plan, decisions.plan.method
    assert isinstance(method, MGRIT)
    given = bind(whole, args, kwargs) if args or kwargs else decisions.given
    probe = Probe(decisions.partition, whole, dict(given or {}), method.seed)

    def unplaced(found: Levels) -> Decisions:
        return replace(decisions, iteration=found[0], levels=found[1], plan=found[2])

    with torch.inference_mode(False), torch.enable_grad(), kept():
        builder = LevelBuilder(probe, method, plan.machine, chosen={})
        decide = partial(decide_levels, builder, plan.ranks, cycles_of(builder))
        _, levels, new = measured_levels(builder, decide, unplaced)
    changed = ("pieces", "levels", "fitted", "parallel_seconds", "critical_coarse_seconds")
    return replace(plan, **{name: getattr(new, name) for name in changed}), levels
