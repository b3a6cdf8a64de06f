"""How the depth is made parallel: one dataclass of options per method."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from pararealize.errors import MethodError
from pararealize.ir.mgrit import MGRIT
from pararealize.ir.options import (
    CoarseFactory,
    check_choices,
    check_count,
    is_count,
    is_number,
    options_of,
)
from pararealize.ir.typed import check_fields

__all__ = ["MGRIT", "CoarseFactory", "Method", "Parareal", "read_method"]


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
            it stands for),
            ``"factored"`` (a copy of the whole subnetwork, its layers with weights of a
            ``coarse_rank`` of their largest rank), ``"auto"``
            (identity or rediscretized where they contract on a probe, else a network;
            ``calibrate`` measures all kinds), or a callable
            ``(fine, interface_in, interface_out) -> nn.Module``.
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
        coarse_rank: share of their largest rank that factored layers keep.

    """

    coarse: str | CoarseFactory = "network"
    correction: str = "residual"
    iterations: int = 1
    guess: str = "network"
    coarse_depth: int | tuple[int, ...] = 1
    coarse_budget: float = 0.75
    seed: int = 0
    tolerance: float | None = None
    coarse_rank: float = 0.25

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "coarse": (
            *("network", "fine", "identity", "rediscretized", "mean", "sampled", "summed"),
            *("thinned", "stepped", "factored", "auto"),
        ),
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
                f"Parareal(coarse_depth={each!r}): expected an integer of 0 or more for each "
                "subnetwork, for example coarse_depth=(4, 1)."
            )
        for name in ("coarse_rank", "coarse_budget"):
            share = getattr(self, name)
            if not is_number(share) or not 0 < share <= 1:
                raise MethodError(f"Parareal({name}={share!r}): expected a share in (0, 1].")
        given: Any = self.tolerance
        if given is not None and not (is_number(given) and given >= 0):
            raise MethodError(
                f"Parareal(tolerance={given!r}): expected a number of 0 or more, relative to the "
                "states, or None for as many sweeps as iterations says."
            )

    def depth(self, j: int) -> int:
        """``coarse_depth`` of subnetwork j, counted from 1."""
        each = self.coarse_depth
        return each[j - 1] if isinstance(each, tuple) else each

    @property
    def subnetworks(self) -> int | None:
        """How many the options name one by one, if they do."""
        return len(self.coarse_depth) if isinstance(self.coarse_depth, tuple) else None

    def check_subnetworks(self, n: int) -> None:
        """Whether options that name every subnetwork are for as many as there are.

        Raises:
            MethodError: they are not.

        """
        if self.subnetworks not in {None, n}:
            raise MethodError(
                f"Parareal(coarse_depth={self.coarse_depth!r}) is for {self.subnetworks} "
                f"subnetworks, and there are {n}: give as many numbers, or one for all."
            )

    @property
    def least(self) -> int:
        """Sweeps of every call: before the first there is no jump that a tolerance could judge."""
        judged = self.tolerance is not None and math.isfinite(self.tolerance)
        return max(self.iterations, 1) if judged else self.iterations

    def to_json(self) -> dict[str, Any]:
        """Options as JSON values; a callable is named, and must be given again on loading."""
        return {"method": "parareal", **options_of(self)}


Method = Parareal | MGRIT


def read_method(values: dict[str, Any], coarse: CoarseFactory | None = None) -> Method:
    """Options read back from their JSON values.

    Raises:
        MethodError: unknown options, or a callable was saved and none is given.

    """
    kinds: dict[str, type[Parareal] | type[MGRIT]] = {"parareal": Parareal, "mgrit": MGRIT}
    kind = kinds.get(str(values.get("method")))
    if kind is None:
        raise MethodError(f"unknown method {values.get('method')!r}: expected parareal or mgrit.")
    known = {field.name for field in fields(kind)}
    options = {key: value for key, value in values.items() if key != "method"}
    if isinstance(options.get("coarse_depth"), list):
        options["coarse_depth"] = tuple(options["coarse_depth"])
    if set(options) - known:
        raise MethodError(f"unknown options {sorted(set(options) - known)} of {kind.__name__}.")
    check_fields(kind, {k: v for k, v in options.items() if k not in {"coarse", "coarsening"}})
    if str(options.get("coarse", "")).startswith("callable:"):
        if coarse is None:
            raise MethodError(
                f"this network was built with {options['coarse']!r}: pass the same function "
                "as load(path, model, coarse=function)."
            )
        options["coarse"] = coarse
    return kind(**options)
