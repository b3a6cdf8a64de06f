"""Emitted: a network that is an emission, and may become another one."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Sequence
from typing import Any

from torch import nn

from pararealize.emit.adoption import Adopting, adopt
from pararealize.emit.emission import Emission
from pararealize.emit.runner import runner_of
from pararealize.emit.watch import AttributeWatch
from pararealize.errors import UnheardHookWarning
from pararealize.runtime.monitoring.jumps import Jumps
from pararealize.runtime.runners.runner import Runner


class Emitted(Adopting, ABC):
    """A module with the state of an emission's serial network, and what runs the emission."""

    _emission: Emission
    _runner: Runner
    _watch: AttributeWatch
    _jumps: Jumps | None

    def __init__(self, emission: Emission) -> None:
        super().__init__()
        adopt(self, emission.serial)
        self._become(emission)
        self._jumps = None

    def _become(self, emission: Emission) -> None:
        """Be this emission, with its coarse and guess networks as sub-modules."""
        for prefix, registry in emission.registries.items():
            self._modules.pop(prefix, None)
            if registry:
                self._modules[prefix] = registry.train(emission.serial.training)
        object.__setattr__(self, "_emission", emission)
        object.__setattr__(self, "_runner", runner_of(emission, self))
        object.__setattr__(self, "_watch", emission.watch)

    def _renew(self, emission: Emission) -> None:
        """Be another emission of the same network; multigrid goes on counting its cycles."""
        before = self._runner.solver
        self._become(emission)
        after = self._runner.solver
        if before is not None and after is not None:
            after.tally = before.tally

    def follow(self) -> bool:
        """Compile again where attributes have changed; whether that was so.

        Raises:
            StaleError: it cannot be compiled again in place.

        """
        before = self._emission
        return self._followed() is not before

    def _followed(self) -> Emission:
        """The emission, compiled again where attributes that it was compiled with have changed."""
        if self._watch.change() is not None:
            from pararealize.recompiling import recompiled  # noqa: PLC0415  it makes networks

            with self._emission.lock:
                change = self._watch.change()  # another thread may have followed it
                if change is not None:
                    self._renew(recompiled(self._emission, change))
        if paths := self._watch.unheard():
            warnings.warn(_unheard(paths), stacklevel=5)
        return self._emission

    @property
    def original(self) -> nn.Module:
        """The serial network that holds the same parameters, buffers and sub-modules."""
        return self._emission.serial

    @property
    def names(self) -> frozenset[str]:
        """Names in the ``state_dict`` of the whole network, also those that other ranks hold."""
        share = self._emission.share
        return frozenset(self.state_dict()) if share is None else share.names

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what runs it, with generated code and the last call's states."""
        return {**self.__dict__, "_runner": None, "_jumps": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make what runs it again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        object.__setattr__(self, "_runner", runner_of(self._emission, self))


def _unheard(paths: Sequence[str]) -> UnheardHookWarning:
    first, more = paths[0], f" and of {len(paths) - 1} others" if paths[1:] else ""
    return UnheardHookWarning(
        f"the hooks of {first}{more} do not run: the network was compiled before they were there, "
        f"and calls the layers in {first} instead, whose hooks run. To have {first} called whole, "
        "compile it again: net = pararealize(net.to_serial(), n)."
    )
