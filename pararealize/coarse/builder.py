"""Builder: the coarse networks of a partition."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.registry import asked
from pararealize.coarse.setting import Setting, Site
from pararealize.cost.probe import Probe
from pararealize.ir.chain import Partition
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.plan import Machine
from pararealize.ir.target import Target


def build_coarse(
    partition: Partition,
    model: nn.Module,
    method: Parareal,
    machine: Machine,
    probe: Probe,
    used: frozenset[Target],
    chosen: Mapping[int, CoarseKind],
) -> dict[int, Coarse]:
    """Coarse propagators of the subnetworks whose schedule applies one, by index.

    ``used`` are the propagators that the schedule applies, ``chosen`` the kinds that a saved
    plan chose. Fresh weights come from ``method.seed``; the caller's random state is restored.

    Raises:
        CoarseError: none of the asked kind exists for a subnetwork; names it and its shapes.
    """
    sweeps = method.guess == "coarse"
    pieces = range(1, partition.n + 1)
    wanted = [j for j in pieces if Target.coarse(j) in used or (sweeps and Target.guess(j) in used)]
    builder = CoarseBuilder(partition, model, method, machine, probe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)
        return {j: builder(j, chosen.get(j)) for j in wanted}


class CoarseBuilder:
    """Makes the coarse propagators of a partition; called with a subnetwork's number."""

    def __init__(
        self,
        partition: Partition,
        model: nn.Module,
        method: Method,
        machine: Machine,
        probe: Probe,
    ) -> None:
        self.partition, self.method, self.probe = partition, method, probe
        self.setting = Setting.of(partition.chain, model, machine, method)

    def __call__(self, j: int, kind: CoarseKind | None = None) -> Coarse:
        """The coarse propagator of subnetwork j, of a kind or of that which the method asks for.

        Raises:
            CoarseError: there is none.

        """
        site = Site(self.setting, *self.partition.piece(j), j, self.probe)
        given = kind or asked(self.method, j)
        kinds = (given,) if kind is not None else (given, *given.instead)
        found = (kind.build(site) for kind in kinds)
        coarse = next((choice for choice in found if choice is not None), None)
        if coarse is None:
            raise given.refusal(site)
        return coarse
