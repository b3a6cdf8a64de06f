"""Recoarsen: choose and fit multigrid's coarse propagators again, as weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from pararealize.coarse.levels import LevelBuilder
from pararealize.cost.inputs import bind
from pararealize.cost.predict import make_plan
from pararealize.cost.probe import Probe
from pararealize.errors import MethodError
from pararealize.ir.chain import Partition
from pararealize.ir.decisions import Coarse
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.methods import MGRIT
from pararealize.ir.plan import Machine, Plan
from pararealize.ir.schedule import targets
from pararealize.ir.target import Target


@final
@dataclass(frozen=True)
class Recoarsening:
    """What deciding again takes besides the weights; it holds no tensors, and copies share it.

    Attributes:
        ranks: those that the plan's prediction is for.
        given: inputs other than tensors, that the network was compiled with.
        iteration: the schedules, not placed on ranks.

    """

    partition: Partition
    method: MGRIT
    machine: Machine
    ranks: int
    given: Mapping[str, Any]
    iteration: Iteration

    def __call__(
        self,
        whole: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        plan: Plan,
    ) -> tuple[Plan, dict[Target, Coarse]]:
        """The plan and the coarse propagators for the weights of a whole network.

        Errors are measured on the given inputs of one call, or on random ones.

        Raises:
            MethodError: the coarse propagators are networks of the user's own.
            ShapeError: the inputs are not the arguments of the network.

        """
        if callable(self.method.coarse):
            raise MethodError(
                "net.recoarsen(): MGRIT(coarse=a function) made networks with weights of their "
                "own, which train with the others: there is nothing to choose again."
            )
        given = bind(whole, args, kwargs) if args or kwargs else self.given
        probe = Probe(self.partition, whole, dict(given or {}), self.method.seed)
        with torch.inference_mode(False), torch.enable_grad():
            builder = LevelBuilder(
                self.partition, whole, self.method, self.machine, probe, chosen={}
            )
            levels, new = decide(builder, self.iteration, self.ranks)
        return _updated(plan, new), levels

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Itself: nothing in it changes."""
        return self


def decide(
    builder: LevelBuilder, solved: Iteration, ranks: int
) -> tuple[dict[Target, Coarse], Plan]:
    """The coarse propagators that the schedules apply, and the plan with them.

    Raises:
        CoarseError: none of the asked kind exists.

    """
    every = (*solved.forward, *solved.adjoint)
    used = {target for cycles in every for target in targets(cycles.schedule)}
    levels = builder.build(solved.levels, used)
    plan = make_plan(
        builder.partition,
        solved.forward[0].schedule,
        builder.model,
        builder.method,
        builder.machine,
        {},
        {},
        ranks,
        levels=levels,
        features=builder.features,
    )
    return levels, plan


def recoarsening(
    partition: Partition,
    iteration: Iteration,
    machine: Machine,
    ranks: int,
    given: Mapping[str, Any],
) -> Recoarsening:
    """What deciding again takes, of the inputs only what is no tensor."""
    plain = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
    return Recoarsening(partition, iteration.method, machine, ranks, plain, iteration)


def _updated(old: Plan, new: Plan) -> Plan:
    """The plan with new coarse propagators and their costs."""
    return replace(
        old,
        pieces=new.pieces,
        levels=new.levels,
        parallel_seconds=new.parallel_seconds,
        critical_coarse_seconds=new.critical_coarse_seconds,
    )
