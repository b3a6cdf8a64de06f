"""Rules: whether the sweeps so far are enough, by a tolerance or by a certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor

from pararealize.ir.calibration import Certificate
from pararealize.runtime.monitoring.answers import entropies
from pararealize.runtime.monitoring.measures import Known, Measure
from pararealize.runtime.monitoring.region_distance import RegionDistance
from pararealize.runtime.values.pytree import tensors_of


class Rule(Protocol):
    """Asked after every stage but the one that makes the network exact."""

    def is_enough(self, measures: Sequence[Measure], output: Any) -> bool:
        """Whether to stop, by the jumps of all sweeps of this call and its output so far.

        All ranks ask, with the same numbers, and have to get the same answer.
        """


@final
@dataclass(frozen=True)
class BelowTolerance:
    """No sample's relative jump at any interface in the last sweep is above the tolerance."""

    tolerance: float

    def is_enough(self, measures: Sequence[Measure], _output: Any) -> bool:
        """Whether no jump is above the tolerance; one that is not known may be of any size."""
        last = max((measure.sweep for measure in measures), default=0)
        found = [measure.relative for measure in measures if measure.sweep == last]
        worst = max((float(relative.max()) for relative in found if len(relative)), default=0.0)
        return worst <= self.tolerance if found else False


def estimate(certificate: Certificate, jumps: Mapping[int, Tensor]) -> Tensor:
    """Σ_j w_j r_j for every sample, of the relative jumps of the last sweep by interface."""
    terms = [weight * jumps[j].double() for j, weight in certificate.weights.items() if j in jumps]
    total: Tensor = torch.stack(torch.broadcast_tensors(*terms)).sum(0)
    return total


def doubtful(
    certificate: Certificate, estimates: Tensor, distances: Mapping[int, Tensor], scores: Tensor
) -> Tensor:
    """Whether the answer to each sample is doubtful.

    It is where the estimate e is above the limit or no number, where a state lies outside its
    region, and where answers are scores s of classes with s_1 - s_2 ≤ margin max(1, e / usual) for
    the best two: where more is corrected than usual, more may be left to correct. Samples with
    many answers are doubtful where these are less sure than those calibrated with.
    """
    doubts = ~(estimates <= certificate.limit)
    for region in certificate.regions:
        if region.interface in distances:
            doubts = doubts | ~(distances[region.interface] <= region.limit)
    if certificate.unsure is not None and (found := entropies(scores)) is not None:
        doubts = doubts | ~(found <= certificate.unsure).to(doubts.device)
    if certificate.margin is None:
        return doubts
    best: Tensor = scores.double().topk(2, dim=-1).values
    times = (estimates / (certificate.usual or torch.inf)).clamp(min=1.0).to(best.device)
    close: Tensor = ~(best[..., 0] - best[..., 1] > certificate.margin * times)
    either: Tensor = doubts | close.to(doubts.device)
    return either


def answer(output: Any) -> Tensor:
    """The first tensor of real numbers that a network returns: its scores."""
    return next(leaf for leaf in tensors_of(output) if leaf.is_floating_point())


@dataclass(frozen=True)
class Judgement:
    """The estimated relative error of every answer of a call, and whether it is doubtful."""

    estimates: tuple[float, ...] = ()
    doubtful: tuple[bool, ...] = ()


@final
class Certified:
    """A rule that estimates errors once the sweeps asked for have run.

    With ``above="exact"`` a doubtful answer makes the network sweep on until it is the serial one;
    otherwise ``otherwise`` decides, or the sweeps asked for are enough.
    """

    def __init__(self, certificate: Certificate, otherwise: Rule | None = None) -> None:
        self.certificate, self._otherwise = certificate, otherwise
        self.verdict = Judgement()
        last = certificate.sweeps - 1
        near = map(RegionDistance, certificate.regions)
        self.known: Known = {(last, here.interface): here.distances for here in near}

    def is_enough(self, measures: Sequence[Measure], output: Any) -> bool:
        """Whether to stop; once in doubt, only the serial answer is enough."""
        last = max((measure.sweep for measure in measures), default=-1)
        if last + 1 == self.certificate.sweeps:
            self.verdict = self._judged(measures, output)
        if self.certificate.above == "exact" and any(self.verdict.doubtful):
            return False
        return self._otherwise is None or self._otherwise.is_enough(measures, output)

    def _judged(self, measures: Sequence[Measure], output: Any) -> Judgement:
        sweep = self.certificate.sweeps - 1
        last = [m for m in measures if m.sweep == sweep]
        found = estimate(self.certificate, {m.interface: m.relative for m in last})
        distances = {m.interface: m.distances for m in last}
        doubts = doubtful(self.certificate, found, distances, answer(output))
        return Judgement(tuple(found.tolist()), tuple(doubts.tolist()))


def warning_of(rule: Rule) -> str:
    """What to warn of after a call; empty where nothing is doubtful or no warning is wanted."""
    if not isinstance(rule, Certified) or rule.certificate.above != "warn":
        return ""
    doubts = rule.verdict.doubtful
    if not any(doubts):
        return ""
    return (
        f"{sum(doubts)} of {len(doubts)} answers may differ from the serial network's: "
        f"estimated errors up to {max(rule.verdict.estimates):.1e}, limit "
        f"{rule.certificate.limit:.1e}. net.report says which; above='exact' makes the "
        "network sweep on instead."
    )
