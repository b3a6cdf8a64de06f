"""Registered propagators: coarse and guess networks, whose parameters the user sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, final

from torch import nn

from pararealize.ir.target import Target
from pararealize.propagators.fitting import Fitting
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.propagator import Propagator, with_state
from pararealize.propagators.randomness import is_random, module_draws


@final
class Registered(Propagator):
    """The module registered as ``key``, found at every call, so that it may be replaced."""

    registry: nn.ModuleDict

    def __init__(
        self,
        registry: nn.ModuleDict,
        key: str,
        label: str,
        *,
        leaves: int = 1,
        inputs: tuple[str, ...] = (),
        fitting: Fitting | None = None,
    ) -> None:
        super().__init__(label, leaves)
        self.key = key
        self._inputs = inputs
        self.fitting = fitting
        object.__setattr__(self, "registry", registry)

    def within(self, registry: nn.ModuleDict) -> Registered:
        """The propagator with the module of another registry."""
        return Registered(
            registry,
            self.key,
            self.label,
            leaves=self.leaves,
            inputs=self._inputs,
            fitting=self.fitting,
        )

    @property
    def module(self) -> nn.Module:
        """The network applied."""
        return self.registry[self.key]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs that it reads besides the state, or that tell its shape."""
        return self._inputs if self.fitting is None else self._inputs + self.fitting.others

    def propagate(self, *values: Any) -> Any:
        """The network's answer."""
        call = self.replaced or self.module
        if self.fitting is None:
            return call(*values)
        return self.fitting(self.module, call, *values)

    def stateful(self) -> Iterable[nn.Module]:
        """Its parts that hold state."""
        return with_state([self.module])

    def called(self) -> Iterable[nn.Module]:
        """Its parts."""
        return self.module.modules()

    @property
    def draws(self) -> bool:
        """Whether it may draw random numbers."""
        copies = (part for part in self.module.modules() if isinstance(part, Fresh))
        return module_draws(self.module) or any(is_random(copy.segment, copy) for copy in copies)


def moved(
    parts: Mapping[Target, Propagator], old: nn.ModuleDict, new: nn.ModuleDict
) -> dict[Target, Propagator]:
    """The propagators of one registry, with the modules of another."""
    found = {target: part for target, part in parts.items() if isinstance(part, Registered)}
    return {target: part.within(new) for target, part in found.items() if part.registry is old}
