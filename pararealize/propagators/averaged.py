"""Averaged propagators: layers whose weights are the mean over an interval of the network's."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Segment
from pararealize.propagators.fine import Fine
from pararealize.propagators.paths import made_submodule, modules_of
from pararealize.propagators.propagator import Around, Propagator


@final
class Averaged(Around):
    """A segment run with x + m φ(x) whose weights are the mean of m layers' weights.

    The means are taken anew when a weight has changed; they are no parameters, and take no
    gradients.

    Args:
        root: the network whose modules the segment names.
        segment: operations, in both modes.
        averages: modules and attributes that stand for the mean of those named.
        label: how errors name it.

    """

    root: nn.Module
    _shadow: nn.Module
    inner: Fine
    _seen: tuple[Any, ...] | None

    def __init__(
        self, root: nn.Module, segment: Segment, averages: Mapping[str, tuple[str, ...]], label: str
    ) -> None:
        super().__init__(label, len(segment.state))
        self.segment, self.averages = segment, dict(averages)
        object.__setattr__(self, "root", root)
        self._build()

    def _build(self) -> None:
        """A tree of modules with the names that the segment uses."""
        shadow = nn.Module()
        for path in (*modules_of(self.segment), *self._read()):
            self._put(shadow, path, attrgetter(path)(self.root))
        object.__setattr__(self, "_shadow", shadow)
        object.__setattr__(self, "_seen", None)
        inner = Fine(shadow, self.segment, self.segment, self.label, borrows=True)
        object.__setattr__(self, "inner", inner)

    def _read(self) -> Iterable[str]:
        return (o.target for o in self.segment.operations if o.kind == "attribute")

    def _put(self, shadow: nn.Module, path: str, value: Any) -> None:
        owner, _, name = path.rpartition(".")
        shadow = made_submodule(shadow, owner)
        if isinstance(value, nn.Module):
            shadow._modules[name] = copy.deepcopy(value) if path in self.averages else value
        else:
            shadow._buffers[name] = value.detach() if isinstance(value, Tensor) else value

    def forward(self, *values: Any, commits: bool = False) -> Any:  # noqa: ARG002
        """The next state; statistics, of means or of layers that are only borrowed, never move.

        Means are taken before statistics are set aside, which are put back afterwards.
        """
        versions = self._versions()
        if versions != self._seen:
            self._refresh()
            object.__setattr__(self, "_seen", versions)
        return super().forward(*values, commits=False)

    def propagate(self, *values: Any) -> Any:
        """The next state, with the means taken last."""
        return self.inner.propagate(*values)

    def forget(self) -> None:
        """Take the means anew at the next evaluation.

        A graph that is recorded has to take them itself, and one that is replayed may move weights
        without their saying so.
        """
        object.__setattr__(self, "_seen", None)

    def _versions(self) -> tuple[Any, ...]:
        modes = [getattr(attrgetter(path)(self.root), "training", True) for path in self.averages]
        tensors: list[Tensor] = []
        for path in chain.from_iterable(self.averages.values()):
            found = attrgetter(path)(self.root)
            whole = isinstance(found, nn.Module)
            tensors += (*found.parameters(), *found.buffers()) if whole else (found,)
        return (*modes, *((id(t), t._version, t.dtype, t.device) for t in tensors))

    @torch.no_grad()
    def _refresh(self) -> None:
        for path in (*modules_of(self.segment), *self._read()):
            if path not in self.averages:
                self._put(self._shadow, path, attrgetter(path)(self.root))
        for path, sources in self.averages.items():
            means = [attrgetter(source)(self.root) for source in sources]
            if isinstance(means[0], Tensor):
                self._put(self._shadow, path, _mean(means))
            else:
                _average(self._shadow.get_submodule(path), means)
        self._shadow.training = self.root.training

    def paths(self) -> Iterable[str]:
        """Everything of the network that it reads."""
        yield from self.inner.paths()
        for sources in self.averages.values():
            yield from sources

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the means."""
        return {k: v for k, v in self.__dict__.items() if k not in {"inner", "_shadow", "_seen"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the tree again."""
        self.__dict__.update(state)
        self._build()


def borrowed(
    root: nn.Module, segment: Segment, averages: Mapping[str, tuple[str, ...]], label: str
) -> Propagator:
    """A segment run with the network's weights, or with means of them where there are any."""
    if averages:
        return Averaged(root, segment, averages, label)
    return Fine(root, segment, segment, label, borrows=True)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0].detach().clone()
    return torch.stack([t.detach() for t in tensors]).mean(0)


def _average(twin: nn.Module, sources: list[nn.Module]) -> None:
    """Put the means of the sources' parameters and buffers into a module of their kind."""
    for parts in zip(twin.modules(), *(s.modules() for s in sources), strict=True):
        mine, *others = parts
        mine.training = others[0].training
        for name, old in mine._parameters.items():
            if old is not None:
                # On lanes leaves stand for parameters.
                mean = _mean([p for p in (o._parameters[name] for o in others) if p is not None])
                mine._parameters[name] = nn.Parameter(mean, requires_grad=False)
        for name, buffer in mine._buffers.items():
            if buffer is not None:
                mine._buffers[name] = _mean([part.get_buffer(name) for part in others])
