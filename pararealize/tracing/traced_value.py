"""Traced value: what stands for a tensor, or for a size, while a forward is traced."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partialmethod
from typing import Any

from torch import fx
from torch.distributions import Distribution

from pararealize.tracing.aliasing import PLAIN
from pararealize.tracing.kinds import PLAIN as SIZES
from pararealize.tracing.kinds import kind_of


class TracedValue(fx.Proxy):
    """A traced value that can be written on: ``y += 1`` changes what else is called ``y``.

    Asked for an attribute that it cannot have, it has none. Sizes are numbers, which cannot be
    written on; where Python asks what they are, the tracer tells.
    """

    def __getattr__(self, name: str) -> Any:
        kind = kind_of(self.node)
        late = kind is not None and issubclass(kind, Distribution)  # whose parameters are set
        if kind is not None and not late and not hasattr(kind, name):
            raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}")
        return TracedAttribute(self, name)

    def _written(self, call: Callable[..., Any], other: Any) -> Any:
        plain = kind_of(self.node) in SIZES
        call = PLAIN.get(call, call) if plain else call
        return self.tracer.create_proxy("call_function", call, (self, other), {})

    __iadd__ = partialmethod(_written, operator.iadd)
    __isub__ = partialmethod(_written, operator.isub)
    __imul__ = partialmethod(_written, operator.imul)
    __itruediv__ = partialmethod(_written, operator.itruediv)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Record ``y[key] = value``, which changes what else is called ``y``."""
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __len__(self) -> int:
        """How many items it has, as the inputs at hand decide."""
        return int(self.tracer.decided(self, len))  # type: ignore[attr-defined]

    def __index__(self) -> int:
        """The whole number that it is, as the inputs at hand decide."""
        return int(self.tracer.decided(self, operator.index))  # type: ignore[attr-defined]

    def __int__(self) -> int:
        """The whole number that it is cut to, as the inputs at hand decide."""
        return int(self.tracer.decided(self, int))  # type: ignore[attr-defined]

    def __float__(self) -> float:
        """The number that it is, as the inputs at hand decide."""
        return float(self.tracer.decided(self, float))  # type: ignore[attr-defined]


class TracedAttribute(fx.proxy.Attribute, TracedValue):
    """An attribute of a traced value, or a method to be called."""
