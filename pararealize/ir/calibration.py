"""Calibration: how coarse networks were fitted and chosen, in numbers saved with the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pararealize.errors import MethodError
from pararealize.ir.options import check_count, is_number, shown
from pararealize.ir.shares import required

#: Largest learning rate; a hundredth is usual.
RATE = 1e6

#: What happens to an answer that its certificate doubts.
ABOVE = ("report", "warn", "exact")


@dataclass(frozen=True)
class Fitting:
    """Options of a calibration.

    Attributes:
        agreement: share of answers that have to be the serial network's; ``None`` keeps the number
            of sweeps, and of levels, as it is.
        epochs: passes over the stored states in each of the two rounds of fitting.
        steps: most optimiser steps of a round; ``None`` for no limit.
        tolerance: relative error below which fitting a coarse network stops early.
        rate: largest learning rate of Adam.
        batch: samples of a batch, where the data is one tensor.
        held_out: share of the data that nothing is fitted to.
        limit: relative error of an answer above which its certificate doubts it; ``None`` chooses
            the largest that was seen on held-out data.
        above: what happens to doubtful answers: ``"report"`` says so in the report, ``"warn"``
            warns as well, ``"exact"`` sweeps on until the answer is the serial network's.
        best: whether a network that does not reach the agreement is made all the same.
        memory: bytes of states kept in memory; the others go to a temporary folder.
        seed: of orders and of fresh weights.
        minutes: that it may take; kinds that cannot be the fastest any more are then left out, and
            those for which no time is left. ``None`` tries and fits all of them to the end.
        confidence: how sure the agreement is to hold for other data of the kind, a probability of
            one half (no margin) or more: what is chosen agrees on so many held-out samples that the
            one-sided interval of the share begins at ``agreement``; on all of them where even
            those are too few.
        faster: whether only a network that is predicted to be faster than the serial one is made.

    """

    agreement: float | None = None
    epochs: int = 8
    steps: int | None = None
    tolerance: float | None = None
    rate: float = 3e-3
    batch: int = 100
    held_out: float = 0.2
    limit: float | None = None
    above: str = "report"
    best: bool = False
    memory: int = 2**30
    seed: int = 0
    minutes: float | None = None
    confidence: float = 0.9
    faster: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch", 1), ("memory", 0), ("seed", 0)):
            check_count(self, name, least)
        if self.steps is not None:
            check_count(self, "steps", 1)
        for name in ("agreement", "held_out"):
            value = getattr(self, name)
            optional = value is None and name == "agreement"
            if not optional and not (is_number(value) and 0 < value <= 1):
                raise MethodError(f"calibrate({name}={shown(value)}): expected a share in (0, 1].")
        for name in ("tolerance", "limit", "rate", "minutes"):
            value = getattr(self, name)
            optional = value is None and name != "rate"
            if not optional and not (is_number(value) and value > 0):
                raise MethodError(f"calibrate({name}={shown(value)}): expected a number above 0.")
        if self.rate > RATE:
            raise MethodError(f"calibrate(rate={self.rate!r}): expected {RATE:.0f} or less.")
        if self.held_out == 1:
            raise MethodError("calibrate(held_out=1): nothing would be left to fit to.")
        if not (is_number(self.confidence) and 0.5 <= self.confidence < 1):
            raise MethodError(
                f"calibrate(confidence={shown(self.confidence)}): expected a probability of 0.5 "
                "(no margin) or more, and below 1."
            )
        if self.above not in ABOVE:
            raise MethodError(f"calibrate(above={self.above!r}): expected one of {ABOVE}.")


def called(kind: str, levels: int) -> str:
    """What people call coarse networks of a kind that correct in so many levels."""
    return kind if levels == 2 else f"{kind}, {levels} levels"


@dataclass(frozen=True)
class Fit:
    """How near one coarse propagator is to its subnetwork on held-out data.

    ``step_error`` is ‖G(u) - Φ(u)‖ / ‖Φ(u)‖ on the trajectory, ``contraction`` what a sweep leaves
    of a jump r, ‖ΔG - ΔΦ‖ / ‖ΔΦ‖; ``None`` where there is none. On a ``level`` above the second it
    is that of a group, of which ``piece`` is the number, and Φ all of its subnetworks.
    """

    piece: int
    kind: str
    parameters: int
    step_error: float | None
    contraction: float | None
    level: int = 2


@dataclass(frozen=True)
class Sweeps:
    """The network on held-out data after so many sweeps, and its predicted seconds."""

    count: int
    agreement: float
    error: float
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A kind of coarse propagator, in so many ``levels`` of corrections, with what it reaches."""

    kind: str
    fits: tuple[Fit, ...]
    sweeps: tuple[Sweeps, ...]
    levels: int = 2

    @property
    def name(self) -> str:
        """What people call it."""
        return called(self.kind, self.levels)

    @property
    def parameters(self) -> int:
        """Parameters of all of its coarse networks."""
        return sum(fit.parameters for fit in self.fits)

    def fastest(self, agreement: float) -> Sweeps | None:
        """The fewest seconds in which it reaches an agreement; ``None`` where it does not."""
        good = [row for row in self.certified if row.agreement >= agreement]
        return min(good, key=lambda row: row.seconds, default=None)

    @property
    def closest(self) -> Sweeps:
        """The best agreement that it reaches, in the fewest seconds."""
        return max(self.certified, key=lambda row: (row.agreement, -row.seconds))

    @property
    def certified(self) -> tuple[Sweeps, ...]:
        """One sweep or more: without any there is no jump to judge an answer by."""
        return tuple(row for row in self.sweeps if row.count)


@dataclass(frozen=True)
class Region:
    """Where the states at one interface lay in calibration.

    A state of k features φ is d = ‖W (φ - c)‖ / √k away from their ``centre`` c, Mahalanobis'
    distance; ``whitening`` has the rows of the lower triangular W, WᵀW the inverse covariance.
    Beyond ``limit`` it is like few or none of the states seen.
    """

    interface: int
    centre: tuple[float, ...] = field(repr=False)
    whitening: tuple[float, ...] = field(repr=False)
    limit: float

    def __post_init__(self) -> None:
        k = len(self.centre)
        if len(self.whitening) != k * (k + 1) // 2:
            raise ValueError(f"a region with {k} features and {len(self.whitening)} weights")


@dataclass(frozen=True)
class Certificate:
    """How the error of an answer is estimated from the jumps of its last sweep, K = ``sweeps``.

    The estimate of ‖answer - serial answer‖ / ‖serial answer‖ for a sample is Σ_j w_j r_j with the
    relative jump r_j = ‖u_j^K - u_j^{K-1}‖ / ‖u_j^K‖ at interface j. An answer is also doubtful
    where one of its states lies outside its region, and, with answers that are scores of classes,
    where the two best are within ``margin`` of each other, wider by as many times as its estimate
    is larger than ``usual``, the median estimate. Of a sample with many answers (a text, a map)
    some are always close: it is doubtful where their mean entropy in nats is above ``unsure``.

    ``coverage`` is the share of held-out samples whose true error is below the estimate,
    ``correlation`` Spearman's rank correlation of both, ``doubted`` the share that is doubted; they
    are measured on held-out samples that the weights were not fitted to.
    """

    sweeps: int
    weights: Mapping[int, float]
    limit: float
    above: str
    margin: float | None = None
    regions: tuple[Region, ...] = ()
    coverage: float = 0.0
    correlation: float = 0.0
    doubted: float = 0.0
    usual: float | None = None
    unsure: float | None = None


@dataclass(frozen=True)
class Calibration:
    """What a calibration found and chose.

    ``samples`` were fitted to, ``held_out`` tested on; ``seconds`` it took; ``serial_seconds`` are
    those of one serial evaluation, ``measured`` or else predicted for a machine that is elsewhere;
    ``left_out`` says of kinds that were not tried why; corrections run in so many ``levels``.
    """

    kind: str
    iterations: int
    samples: int
    held_out: int
    seconds: float
    serial_seconds: float
    candidates: tuple[Candidate, ...]
    certificate: Certificate | None = None
    wanted: float | None = None
    confidence: float = 0.5
    left_out: Mapping[str, str] = field(default_factory=dict)
    levels: int = 2
    measured: bool = True

    @property
    def required(self) -> float | None:
        """The agreement on held-out samples that vouches for the one ``wanted``."""
        if self.wanted is None:
            return None
        return required(self.wanted, self.held_out, self.confidence)

    @property
    def name(self) -> str:
        """What people call the coarse networks that the network now has."""
        return called(self.kind, self.levels)

    @property
    def chosen(self) -> Candidate:
        """The candidate that the network now has."""
        return next(c for c in self.candidates if c.name == self.name)

    @property
    def reached(self) -> Sweeps:
        """What it reaches with the sweeps chosen."""
        return next(s for s in self.chosen.sweeps if s.count == self.iterations)

    def _repr_html_(self) -> str:
        from pararealize.explain.notebook import calibration_html  # noqa: PLC0415  only where it is shown

        return calibration_html(self)
