"""Builder: the coarse networks of a partition."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.registry import asked
from pararealize.coarse.setting import Setting, Site, once_a_kind
from pararealize.cost.probe import Probe
from pararealize.ir.decisions import Coarse
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.target import Target


def build_coarse(
    probe: Probe,
    setting: Setting,
    method: Parareal,
    used: frozenset[Target],
    chosen: Mapping[int, CoarseKind],
    *,
    priced: bool = False,
) -> dict[int, Coarse]:
    """Coarse propagators of the subnetworks whose schedule applies one, by index.

    ``used`` are the propagators that the schedule applies, ``chosen`` the kinds that a saved
    plan chose. Fresh weights come from ``method.seed``; the caller's random state is restored.
    Where they are only ``priced``, like subnetworks have the same one.

    Raises:
        CoarseError: none of the asked kind exists for a subnetwork; names it and its shapes.
    """
    sweeps = method.guess == "coarse"
    pieces = range(1, probe.partition.n + 1)
    wanted = [j for j in pieces if Target.coarse(j) in used or (sweeps and Target.guess(j) in used)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)

        def made(j: int) -> Coarse:
            return build_one(probe, setting, method, j, chosen.get(j))

        if not priced:
            return {j: made(j) for j in wanted}
        kinds = {j: chosen.get(j) or asked(method, j) for j in wanted}
        spans = {j: setting.likeness(*probe.partition.piece(j)) for j in wanted}
        return once_a_kind({j: (kinds[j], spans[j]) for j in wanted}, made)


def build_one(
    probe: Probe, setting: Setting, method: Method, j: int, kind: CoarseKind | None = None
) -> Coarse:
    """The coarse propagator of subnetwork j, of a kind or of that which the method asks for.

    Raises:
        CoarseError: there is none.

    """
    site = Site(setting, *probe.partition.piece(j), j, probe)
    given = kind or asked(method, j)
    for each in (given,) if kind is not None else (given, *given.instead):
        coarse = each.build(site)
        if coarse is not None:
            return coarse
    raise given.refusal(site)
