"""Builder: the coarse networks of a partition, and of groups of its subnetworks."""

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
    pieces = range(1, probe.partition.n + 1)
    sites = {j: Site(setting, *probe.partition.piece(j), j, probe) for j in pieces}
    kinds = {j: chosen.get(j) or asked(method, j) for j in pieces}
    wanted = _applied(sites, method, used, level=2)
    return _built(wanted, kinds, chosen, method.seed, priced=priced)


def build_groups(
    probe: Probe,
    setting: Setting,
    method: Parareal,
    used: frozenset[Target],
    chosen: Mapping[int, Mapping[int, CoarseKind]],
    *,
    priced: bool = False,
) -> dict[Target, Coarse]:
    """Coarse propagators of the groups of subnetworks that levels above the second correct.

    They are those of one subnetwork with all of a group's layers; ``chosen`` are kinds by level.

    Raises:
        CoarseError: none of the asked kind exists for a group; names it and its shapes.

    """
    found: dict[Target, Coarse] = {}
    for level, points in enumerate(method.points(probe.partition.n)[1:], start=3):
        merged = probe.merged(points)
        sites = {
            j: Site(setting, *merged.partition.piece(j), j, merged, group_name(points, j))
            for j in range(1, len(points))
        }
        saved = chosen.get(level, {})
        kinds = {j: saved.get(j) or asked(method) for j in sites}
        wanted = _applied(sites, method, used, level)
        built = _built(wanted, kinds, saved, method.seed + level, priced=priced)
        found |= {Target.coarse(j, level): coarse for j, coarse in built.items()}
    return found


def group_name(points: tuple[int, ...], number: int) -> str:
    """A group of subnetworks, by their numbers."""
    return f"the group of subnetworks {points[number - 1] + 1} … {points[number]}"


def _applied(
    sites: Mapping[int, Site], method: Parareal, used: frozenset[Target], level: int
) -> dict[int, Site]:
    """Where a schedule applies a coarse propagator of a level, to correct or to guess."""
    guess = level if level > 2 else 1
    sweeps = method.guess == "coarse"
    return {
        j: site
        for j, site in sites.items()
        if Target.coarse(j, level) in used or (sweeps and Target.guess(j, guess) in used)
    }


def _built(
    sites: Mapping[int, Site],
    kinds: Mapping[int, CoarseKind],
    chosen: Mapping[int, CoarseKind],
    seed: int,
    *,
    priced: bool,
) -> dict[int, Coarse]:
    """The propagators of kinds; where one is not ``chosen``, others may stand in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)

        def made(j: int) -> Coarse:
            return _build(sites[j], kinds[j], alone=j in chosen)

        if not priced:
            return {j: made(j) for j in sites}
        spans = {j: site.setting.likeness(*site.span) for j, site in sites.items()}
        return once_a_kind({j: (kinds[j], spans[j]) for j in sites}, made)


def build_one(
    probe: Probe, setting: Setting, method: Method, j: int, kind: CoarseKind | None = None
) -> Coarse:
    """The coarse propagator of subnetwork j, of a kind or of that which the method asks for.

    Raises:
        CoarseError: there is none.

    """
    site = Site(setting, *probe.partition.piece(j), j, probe)
    return _build(site, kind or asked(method, j), alone=kind is not None)


def build_step(
    probe: Probe, setting: Setting, method: Parareal, target: Target, kind: CoarseKind | None = None
) -> Coarse:
    """The coarse propagator of a subnetwork or, on levels above the second, of a group of them.

    Raises:
        CoarseError: there is none.

    """
    if target.level == 2:
        return build_one(probe, setting, method, target.number, kind)
    points, j = method.points(probe.partition.n)[target.level - 2], target.number
    merged = probe.merged(points)
    site = Site(setting, *merged.partition.piece(j), j, merged, group_name(points, j))
    return _build(site, kind or asked(method), alone=kind is not None)


def _build(site: Site, kind: CoarseKind, *, alone: bool) -> Coarse:
    for each in (kind,) if alone else (kind, *kind.instead):
        coarse = each.build(site)
        if coarse is not None:
            return coarse
    raise kind.refusal(site)
