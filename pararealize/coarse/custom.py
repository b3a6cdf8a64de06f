"""Custom: coarse propagators that a user's function makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from pararealize.coarse.kind import CoarseKind
from pararealize.coarse.setting import Setting, Site, like
from pararealize.cost.profile import module_cost
from pararealize.errors import CoarseError
from pararealize.ir.chain import Cost
from pararealize.ir.decisions import Coarse
from pararealize.ir.options import CoarseFactory


@final
@dataclass(frozen=True)
class Custom(CoarseKind):
    """What ``factory`` makes of a subnetwork and the states' specs before and after it."""

    name = "custom"
    methods = ()
    keeps_zero = True
    factory: CoarseFactory

    @property
    def options(self) -> Mapping[str, Any]:
        """None that could be saved."""
        return {}

    def __str__(self) -> str:
        return str(getattr(self.factory, "__name__", "coarse"))

    def costs(self, setting: Setting, first: int) -> Iterator[Cost | None]:
        """Nothing: what they will be is not known before."""
        for _ in setting.chain.layers[first:]:
            yield Cost()

    def build(self, site: Site) -> Coarse | None:
        """The user's own network.

        Raises:
            CoarseError: it is no module, or makes another shape.

        """
        assert site.probe is not None
        source, target = site.states
        specs = [s[0] if len(s) == 1 else s for s in (source, target)]
        module = self.factory(site.probe.fine(site.number), *specs)
        if not isinstance(module, nn.Module):
            raise CoarseError(
                f"{self}(fine, interface_in, interface_out) must return a torch.nn.Module, and "
                f"returned a {type(module).__name__} for subnetwork {site.number}."
            )
        module = like(module, site.setting.model)
        found = site.probe.shapes(module, source)
        if found != [spec.shape for spec in target]:
            raise CoarseError(
                f"the coarse network {self} made for subnetwork {site.number} maps "
                f"{[list(s.shape) for s in source]} to {[list(s) for s in found]}, and the "
                f"interface after it has {[list(s.shape) for s in target]}: make its output "
                "that shape."
            )
        return self.network(site, module_cost(module, source, site.setting.machine), module)
