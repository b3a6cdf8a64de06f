"""How the depth is made parallel: one dataclass of options per method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from torch import nn

from pararealize.errors import MethodError
from pararealize.ir.typed import check_fields

#: A user's own coarse propagator: (fine, interface_in, interface_out) -> nn.Module.
CoarseFactory = Callable[..., nn.Module]


@dataclass(frozen=True)
class Parareal:
    """Options of the parareal neural network (Lee, Lee & Park, arXiv 2103.08802).

    Args:
        coarse: where corrections come from: ``"network"`` (a small fresh network), ``"fine"`` (the
            subnetwork itself: the exact case), ``"identity"``, ``"rediscretized"`` (one residual
            layer for each run of them, its step scaled), ``"auto"`` (identity or rediscretized
            where they contract on a probe, else a network), or a callable
            ``(fine, interface_in, interface_out) -> nn.Module``.
        correction: ``"residual"`` adds F_j(jump), ``"difference"`` adds G_j(new) - G_j(old).
        iterations: sweeps; as many as there are subnetworks make the network exact.
        guess: ``"network"`` (C_j from the network's input) or ``"coarse"`` (one coarse sweep).
        coarse_depth: layers a fresh coarse network keeps of the subnetwork's repeated ones.
        coarse_budget: largest share of a subnetwork's cost that its coarse network may take when
            it is made of the subnetwork's own layers; above it a generic one is built.
        seed: of the fresh weights; the caller's random state is left alone.

    """

    coarse: str | CoarseFactory = "network"
    correction: str = "residual"
    iterations: int = 1
    guess: str = "network"
    coarse_depth: int = 1
    coarse_budget: float = 0.75
    seed: int = 0

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "coarse": ("network", "fine", "identity", "rediscretized", "auto"),
        "correction": ("residual", "difference"),
        "guess": ("network", "coarse"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self.CHOICES.items():
            value = getattr(self, name)
            if value not in allowed and not (name == "coarse" and callable(value)):
                extra = " or a callable" if name == "coarse" else ""
                raise MethodError(
                    f"Parareal({name}={value!r}): expected one of {', '.join(map(repr, allowed))}"
                    f"{extra}, for example Parareal({name}={allowed[0]!r})."
                )
        self._at_least("iterations", 0)
        self._at_least("coarse_depth", 0)
        self._at_least("seed", 0)
        budget: Any = self.coarse_budget
        is_number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
        if not is_number or not 0 < budget <= 1:
            raise MethodError(
                f"Parareal(coarse_budget={self.coarse_budget!r}): expected a share in (0, 1]."
            )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise MethodError(
                f"Parareal({name}={value!r}): expected an integer of {least} or more."
            )

    def to_json(self) -> dict[str, Any]:
        """Options as JSON values; a callable is named, and must be given again on loading."""
        values = asdict(self)
        if callable(self.coarse):
            values["coarse"] = f"callable:{getattr(self.coarse, '__qualname__', self.coarse)}"
        return {"method": "parareal", **values}

    @classmethod
    def from_json(cls, values: dict[str, Any], coarse: CoarseFactory | None = None) -> Parareal:
        """Options read back from :meth:`to_json`.

        Raises:
            MethodError: unknown options, or a callable was saved and none is given.

        """
        known = {field.name for field in fields(cls)}
        options = {key: value for key, value in values.items() if key != "method"}
        if set(options) - known:
            raise MethodError(f"unknown options {sorted(set(options) - known)} of Parareal.")
        check_fields(cls, {key: v for key, v in options.items() if key != "coarse"})
        if str(options.get("coarse", "")).startswith("callable:"):
            if coarse is None:
                raise MethodError(
                    f"this network was built with {options['coarse']!r}: pass the same function "
                    "as load(path, model, coarse=function)."
                )
            options["coarse"] = coarse
        return cls(**options)
