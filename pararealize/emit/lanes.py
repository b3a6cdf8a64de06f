"""Lanes: the schedules of an emission on the streams of one device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from pararealize.emit.emission import Emission
from pararealize.errors import MethodError
from pararealize.ir.hierarchy import Iteration
from pararealize.ir.lanes import LaneProgram
from pararealize.ir.target import Target
from pararealize.propagators.propagator import Propagator
from pararealize.schedule.lanes import lanes


def lane_programs(emission: Emission) -> tuple[LaneProgram, ...]:
    """What is launched where, stage by stage, with the statistics that move in today's modes.

    Raises:
        MethodError: subnetworks lie on several devices.

    """
    stages = emission.decisions.stages
    if any(stage.ranks > 1 for stage in stages):
        raise MethodError(
            "lanes are streams of one device, and the subnetworks of this network lie on "
            f"{stages[0].ranks}: compile it without devices= to capture it."
        )
    effects = effects_of(emission.propagators)
    return tuple(lanes(stage, effects) for stage in stages)


def solver_programs(iteration: Iteration) -> tuple[LaneProgram, ...]:
    """What a solver launches where: the fewest cycles for states, and for adjoints."""
    states, adjoints = iteration.forward[0].schedule, iteration.adjoint[0].schedule
    if states.ranks > 1:
        raise MethodError(
            "lanes are streams of one device, and the subnetworks of this network lie on "
            f"{states.ranks}: compile it without devices= to capture it."
        )
    return tuple(lanes(schedule, by="pieces") for schedule in (states, adjoints))


def effects_of(propagators: Mapping[Target, Propagator]) -> dict[Target, set[str]]:
    """Statistics that propagators may move, named after all propagators that may move them."""
    movers: dict[nn.Module, list[Target]] = {}
    for target, part in propagators.items():
        for module in dict.fromkeys(_moving(part.stateful())):
            movers.setdefault(module, []).append(target)
    effects: dict[Target, set[str]] = {}
    for targets in {tuple(found) for found in movers.values()}:
        name = f"what {' and '.join(map(str, targets))} keep{'s' if len(targets) == 1 else ''}"
        for target in targets:
            effects.setdefault(target, set()).add(name)
    return effects


def _moving(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    """Without normalisations that evaluate, and move nothing."""
    norms = nn.modules.batchnorm._NormBase
    return (m for m in modules if m.training or not isinstance(m, norms))
