"""How the depth is made parallel: one dataclass of options per method."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pararealize.errors import MethodError
from pararealize.ir.coarsening import Points, check_coarsening, check_groups, grouped
from pararealize.ir.options import (
    CoarseFactory,
    DescribedKind,
    check_choices,
    check_count,
    is_count,
    is_number,
    shown,
)

#: Most levels: every one halves a chain at least.
LEVELS = 64

#: Most relaxations of C-points in a cycle; what they bring, more cycles bring faster.
RELAXATIONS = 100


@dataclass(frozen=True)
class Parareal:
    """Options of the parareal neural network (Lee, Lee & Park, arXiv 2103.08802).

    Args:
        coarse: where corrections come from: ``"network"`` (a small fresh network), ``"fine"`` (the
            subnetwork itself: the exact case), ``"identity"``, ``"rediscretized"`` (one residual
            layer for each run of them, its step scaled), ``"mean"`` (the same with mean weights),
            ``"sampled"`` and ``"summed"`` (two or all of the run's residuals, side by side),
            ``"thinned"`` (a copy of the subnetwork with the first ``coarse_depth`` of its repeated
            blocks, which starts from their weights; with all where it has no more), ``"stepped"``
            (the same with so many blocks from all of its depth, each with a step as long as those
            it stands for), ``"factored"`` (a copy of the whole subnetwork, its layers with weights
            of a ``coarse_rank`` of their largest rank), ``"auto"`` (identity or rediscretized where
            they contract on a probe, else a network; ``calibrate`` measures all kinds), a callable
            ``(fine, interface_in, interface_out) -> nn.Module``, or an object of a kind of one's
            own, a ``pararealize.coarse.kind.CoarseKind``.
        correction: ``"residual"`` adds F_j(jump), ``"difference"`` adds G_j(new) - G_j(old).
        iterations: sweeps; as many as there are subnetworks make the network exact.
        tolerance: after ``iterations`` sweeps (one at least: before it no jump is known) go on one
            by one while the largest jump of the last, relative to the new state, over all
            interfaces and samples, is above it; at most until the network is exact.
        guess: ``"network"`` (C_j from the network's input) or ``"coarse"`` (one coarse sweep).
        coarse_depth: layers a fresh coarse network keeps of the subnetwork's repeated ones; one
            number for all, or one for each subnetwork.
        coarse_budget: largest share of a subnetwork's cost that its coarse network may take when
            it is made of the subnetwork's own layers; above it a generic one is built.
        seed: of the fresh weights; the caller's random state is left alone.
        coarse_rank: share of their largest rank that factored layers keep, and wide layers that
            stand alone in a fresh coarse network that would be dear; 1 keeps them whole.
        levels: with 3, neighbouring subnetworks are groups, each with a coarse network H of its
            own: corrections run inside all groups side by side, then from group to group; with 4,
            groups of groups, and so on. ``"auto"`` takes 2, or on one device that subnetworks share
            3 where that is predicted to be a tenth faster, and has their ``coarsening`` then.
        coarsening: how many steps of a level make one of the next, one number for all levels or one
            for each above the second; ``None`` for the shortest path of corrections.

    >>> Parareal(coarse="thinned", correction="difference", guess="coarse").iterations
    1
    >>> Parareal(coarse_rank=2)
    Traceback (most recent call last):
    pararealize.errors.MethodError: Parareal(coarse_rank=2): expected a share in (0, 1].

    """

    coarse: str | CoarseFactory | DescribedKind = "network"
    correction: str = "residual"
    iterations: int = 1
    guess: str = "network"
    coarse_depth: int | tuple[int, ...] = 1
    coarse_budget: float = 0.75
    seed: int = 0
    tolerance: float | None = None
    coarse_rank: float = 0.25
    levels: int | str = "auto"
    coarsening: int | tuple[int, ...] | None = None

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "correction": ("residual", "difference"),
        "guess": ("network", "coarse"),
    }

    def __post_init__(self) -> None:
        check_choices(self, self.CHOICES)
        for name in ("iterations", "seed"):
            check_count(self, name, 0)
        each: Any = self.coarse_depth if isinstance(self.coarse_depth, tuple) else None
        if each is None:
            check_count(self, "coarse_depth", 0)
        elif not each or not all(is_count(depth, 0) for depth in each):
            raise MethodError(
                f"Parareal(coarse_depth={shown(each)}): expected an integer of 0 or more for each "
                "subnetwork, for example coarse_depth=(4, 1)."
            )
        for name in ("coarse_rank", "coarse_budget"):
            share = getattr(self, name)
            if not is_number(share) or not 0 < share <= 1:
                raise MethodError(f"Parareal({name}={shown(share)}): expected a share in (0, 1].")
        given: Any = self.tolerance
        if given is not None and not (is_number(given) and given >= 0):
            raise MethodError(
                f"Parareal(tolerance={shown(given)}): expected a number of 0 or more, relative to "
                "the states, or None for as many sweeps as iterations says."
            )
        check_groups(self, LEVELS)
        _check_coarse(self)

    def points(self, n: int) -> tuple[Points, ...]:
        """Where the steps of every level end, from level 2 on, for n subnetworks."""
        chosen = 2 if self.coarsening is None else 3
        levels = self.levels if isinstance(self.levels, int) else chosen
        return grouped(n, levels, self.coarsening)

    def parameters(self, j: int | None) -> Mapping[str, Any]:
        """What coarse propagators of subnetwork j, counted from 1, take of it, by their names.

        For a subnetwork that is not known yet the depth is the mean of all.
        """
        depth = self.coarse_depth
        if isinstance(depth, tuple):
            depth = round(sum(depth) / len(depth)) if j is None else depth[j - 1]
        return {"depth": depth, "budget": self.coarse_budget, "rank": self.coarse_rank}

    @property
    def owns_weights(self) -> bool:
        """Whether its coarse propagators need nothing of the network once they are made."""
        owns: bool = coarse_registry().asked(self).owns_weights
        return owns

    @property
    def subnetworks(self) -> int | None:
        """How many the options name one by one, if they do."""
        return len(self.coarse_depth) if isinstance(self.coarse_depth, tuple) else None

    @property
    def least(self) -> int:
        """Sweeps of every call: before the first there is no jump that a tolerance could judge."""
        judged = self.tolerance is not None and math.isfinite(self.tolerance)
        return max(self.iterations, 1) if judged else self.iterations


@dataclass(frozen=True)
class MGRIT:
    """Options of multigrid reduction in time: the same weights, no new parameters.

    Between the boundaries of the n subnetworks (slices) states propagate layer by layer; only
    the n - 1 boundaries carry a guess. On level 2 every slice is run with a stride of
    ``coarsening`` layers, on level 3 with a stride of strides, and so on; where every slice is
    down to one layer, neighbouring slices become one.

    Args:
        levels: levels of the hierarchy, 2 or more.
        coarsening: layers that one layer of the next level stands for: one factor, or one a level.
        coarse: what stands for an interval of m residual layers x + φ_i(x): ``"rediscretized"``
            (x + m φ_1(x)), ``"mean"`` (x + m φ(x) with averaged weights), ``"sampled"`` (a few
            residuals side by side, x + m/s Σ φ_i(x)), ``"summed"`` (x + Σ φ_i(x)), ``"fitted"``
            (sampled, with weights that fit the interval on a probe), ``"identity"``, ``"auto"``
            (the cheapest whose error, measured on a solve, is below ``wanted_error``; of more than
            64 slices kinds that are worse on one interval than a measured one on the solve are not
            measured), or a callable ``(fine, interface_in, interface_out) -> nn.Module`` for a
            whole slice.
        samples: residuals that ``"sampled"`` and ``"fitted"`` take of an interval.
        wanted_error: relative error that ``"auto"`` chooses for.
        relaxation: ``"F"``, ``"FCF"``, ``"FCFCF"``, …
        cycle: ``"V"`` or ``"F"``.
        forward_cycles, backward_cycles: cycles for the states, and for their adjoints.
        tolerance: further cycles until no residual is larger, relative to the state.
        max_cycles: cycles after which a step that has not converged is run serially.
        guess: first states from a sweep of level 2 (``"coarse"``), of the coarsest level
            (``"coarsest"``, what XBraid calls skipping the first down-cycle), from full multigrid
            (``"full"``), or from the states of the call before (``"previous"``).
        guard: relative residual above which a step counts as diverging and gets more cycles.
        bias_bound: adjoint residual above which later steps get one more backward cycle.
        storage: what the backward pass finds: ``"all"`` values, those at slice boundaries
            (``"points"``), from which slices are run again, or at interval boundaries as well
            (``"intervals"``), inside which layers are run again.
        batched: advance slices of equal structure as one batch over depth, on one device:
            ``"auto"`` where that is measured to be faster than one after another, ``"always"`` or
            ``"never"``; ``"fastest"`` as auto, and where a whole step is measured to be slower than
            the serial network's, that is run instead.
        seed: of the probe.

    Source: Falgout et al., SIAM J. Sci. Comput. 36 (2014); Günther et al., SIAM J. Math. Data
    Sci. 2 (2020), arXiv 1812.04352.

    >>> MGRIT(levels=3, coarsening=(4, 2), relaxation="FCF").coarsening
    (4, 2)

    """

    levels: int = 2
    coarsening: int | tuple[int, ...] = 8
    coarse: str | CoarseFactory = "auto"
    samples: int = 2
    wanted_error: float = 0.02
    relaxation: str = "F"
    cycle: str = "V"
    forward_cycles: int = 1
    backward_cycles: int = 1
    tolerance: float | None = None
    max_cycles: int = 8
    guess: str = "coarse"
    guard: float = 0.5
    bias_bound: float | None = None
    storage: str = "all"
    batched: str = "auto"
    seed: int = 0

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "cycle": ("V", "F"),
        "guess": ("coarse", "coarsest", "full", "previous"),
        "storage": ("all", "points", "intervals"),
        "batched": ("auto", "always", "never", "fastest"),
    }

    def __post_init__(self) -> None:
        check_choices(self, self.CHOICES)
        _check_coarse(self)
        check_count(self, "levels", 2, LEVELS)
        least = {"samples": 1, "max_cycles": 1, "seed": 0}
        least |= {"forward_cycles": 1, "backward_cycles": 1}
        for name, count in least.items():
            check_count(self, name, count)
        check_coarsening(self, self.levels - 1)
        if not re.fullmatch(f"F(CF){{0,{RELAXATIONS}}}", str(self.relaxation)):
            raise MethodError(
                f"MGRIT(relaxation={self.relaxation!r:.40}): expected 'F', 'FCF', 'FCFCF', …, with "
                f"{RELAXATIONS} Cs at most."
            )
        for name in ("wanted_error", "guard", "tolerance", "bias_bound"):
            value: Any = getattr(self, name)
            optional = value is None and name in {"tolerance", "bias_bound"}
            if not optional and not (is_number(value) and value > 0):
                raise MethodError(f"MGRIT({name}={shown(value)}): expected a number above 0.")

    def parameters(self, j: int | None) -> Mapping[str, Any]:
        """What coarse propagators take of it, the same for all subnetworks."""
        del j
        return {"samples": self.samples}

    @property
    def factors(self) -> tuple[int, ...]:
        """Coarsening factors, one for each coarse level."""
        given = self.coarsening
        return given if isinstance(given, tuple) else (given,) * (self.levels - 1)

    @property
    def sweeps(self) -> int:
        """Relaxations of C-points in a cycle: its Cs."""
        return self.relaxation.count("C")


Method = Parareal | MGRIT


def coarse_names(kind: type[Method]) -> tuple[str, ...]:
    """What a method's ``coarse`` may be called, its default first."""
    names: tuple[str, ...] = coarse_registry().names(kind.__name__)
    return tuple(sorted(names, key=lambda name: name != kind.coarse))


def coarse_registry() -> Any:
    """The kinds of coarse propagators; they are made of what stands after this module."""
    from pararealize.coarse import registry  # noqa: PLC0415

    return registry


def _check_coarse(method: Method) -> None:
    """Raise where ``coarse`` is no kind that the method offers.

    A kind's object that the method would make of its name itself is replaced by the name.
    """
    if isinstance(method, Parareal) and isinstance(method.coarse, coarse_registry().CoarseKind):
        object.__setattr__(method, "coarse", coarse_registry().shortest(method))
    else:
        check_choices(method, {"coarse": coarse_names(type(method))})
