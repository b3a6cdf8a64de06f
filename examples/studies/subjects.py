"""Subjects: networks that nobody here chose, each with the inputs of some calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Inputs = Mapping[str, Any]


class Subject(Protocol):
    """A network and what it is called with, in a dtype."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the inputs."""
        ...

    def build(self) -> tuple[nn.Module, Inputs]:
        """The network with random weights, and the arguments of one call by name."""
        ...

    def others(self, given: Inputs) -> Mapping[str, Inputs]:
        """The arguments of other calls, by what differs in them: ``batch`` and ``size``."""
        ...

    def options(self) -> Inputs:
        """What the line that compiles it says besides ``n`` and inputs, which is nothing."""
        ...


@dataclass(frozen=True)
class Style:
    """A network written by hand, its inputs for a batch and a size, and another size if any."""

    network: Callable[[], nn.Module]
    inputs: Callable[[int, int], dict[str, Tensor]]
    size: int = 0
    other: int | None = None
    dtype: torch.dtype = torch.float64

    def build(self) -> tuple[nn.Module, Inputs]:
        """With the seed 0."""
        torch.manual_seed(0)
        model, given = self.network(), self.inputs(2, self.size)
        names = inspect.signature(model.forward).parameters
        return model, dict(zip(names, given.values(), strict=False))

    def others(self, given: Inputs) -> Mapping[str, Inputs]:
        """Three samples, and two of another size."""
        calls = {"batch": self.inputs(3, self.size)}
        if self.other is not None:
            calls["size"] = self.inputs(2, self.other)
        return {k: dict(zip(given, call.values(), strict=True)) for k, call in calls.items()}

    def options(self) -> Inputs:
        """Nothing."""
        return {}


def another_batch(given: Inputs) -> Inputs:
    """The first sample once more, behind the others."""
    return {k: _more(v) for k, v in given.items()}


def _more(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value, value[:1]])
    return [*value, value[0]] if isinstance(value, list) else value


def another_size(given: Inputs) -> Inputs:
    """Longer sentences; images and videos of half as many more rows and columns."""
    return {k: _larger(v) for k, v in given.items()}


def _larger(value: Any) -> Any:
    if isinstance(value, list):
        return [_larger(item) for item in value]
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    if value.ndim < 4 and not (value.ndim == 3 and value.shape[0] == 3):
        return torch.cat([value, value[:, :3]], 1)
    rows, columns = value.shape[-2:]
    return torch.randn(*value.shape[:-2], rows + rows // 2, columns + columns // 2).to(value)
