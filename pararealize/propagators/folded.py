"""Folded normalisations: BatchNorm in eval mode as a part of the convolution before it.

    γ (w * x + b - μ) / σ + β  =  w' * x + b',    w' = w γ/σ,  b' = (b - μ) γ/σ + β

with σ² the running variance plus eps: equal but for rounding, and one kernel less.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.ir.program import Operation, Ref, Segment
from pararealize.propagators.paths import submodule

#: Convolutions with the normalisation that can be folded into each; of these types themselves.
KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


@final
class Fold:
    """A convolution and the normalisation behind it as one ``module`` with weights of its own."""

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        self._convolution, self._norm = convolution, norm
        weight = convolution._parameters["weight"]
        assert weight is not None
        self._weight = torch.empty_like(weight)
        self._bias = weight.new_empty(len(weight))
        self.module = copy.copy(convolution)
        self.module.__dict__["_parameters"] = {
            "weight": nn.Parameter(self._weight, requires_grad=False),
            "bias": nn.Parameter(self._bias, requires_grad=False),
        }
        self._seen: object = None
        self.refresh()

    def refresh(self, *, anew: bool = False) -> None:
        """Compute the weights anew, in the same memory, where those that they are of have changed.

        They have where one was written on, or is another tensor; or ``anew`` says so.
        """
        sources = self._sources()
        # Operations write on statistics without saying so, and on the count beside them aloud.
        every = (*sources, self._norm._buffers["num_batches_tracked"])
        seen = [(id(t), t._version) for t in every if t is not None]
        if anew or seen != self._seen:
            self._seen = seen
            self._compute(*sources)

    def _sources(self) -> tuple[Tensor | None, ...]:
        mine, its, kept = self._convolution._parameters, self._norm._parameters, self._norm._buffers
        found = (mine["weight"], mine["bias"], its["weight"], its["bias"])
        return (*found, kept["running_mean"], kept["running_var"])

    @torch.no_grad()
    def _compute(self, *sources: Tensor | None) -> None:
        weight, bias, gain, shift, mean, variance = sources
        assert weight is not None
        assert mean is not None
        assert variance is not None
        scale = torch.rsqrt(variance + vars(self._norm)["eps"])
        scale = scale if gain is None else scale * gain
        moved = -mean * scale if bias is None else (bias - mean) * scale
        self._weight.copy_(weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)))
        self._bias.copy_(moved if shift is None else moved + shift)


@final
class Folds:
    """The folded convolutions of a network, each made once."""

    def __init__(self) -> None:
        self._folds: dict[tuple[int, int], Fold] = {}

    def of(self, segment: Segment, root: nn.Module) -> tuple[Segment, dict[str, nn.Module]]:
        """The segment without normalisations that can be folded, and what stands for modules."""
        gone: dict[str, str] = {}
        standing: dict[str, nn.Module] = {}
        for convolution, norm in _pairs(segment, root):
            one, other = submodule(root, convolution.target), submodule(root, norm.target)
            key = id(one), id(other)
            if key not in self._folds:
                self._folds[key] = Fold(one, other)
            standing[convolution.target] = self._folds[key].module
            gone[norm.name] = convolution.name
        kept = (o.renamed(gone) for o in segment.operations if o.name not in gone)
        return segment.rewritten(kept, gone), standing

    def refresh(self, *, anew: bool = False) -> None:
        """Follow weights and statistics that have changed in place."""
        for fold in self._folds.values():
            fold.refresh(anew=anew)

    def __len__(self) -> int:
        return len(self._folds)


def _pairs(segment: Segment, root: nn.Module) -> Iterator[tuple[Operation, Operation]]:
    """Convolutions that nothing but a normalisation reads; neither is called twice."""
    calls = [o for o in segment.operations if o.kind == "module"]
    often = Counter(o.target for o in calls)
    reads = Counter(name for o in segment.operations for name in o.uses)
    reads.update(segment.results or ())
    made = {o.name: o for o in calls}
    for norm in calls:
        first: Any = norm.args[0] if norm.args else None
        source = made.get(first.name) if isinstance(first, Ref) else None
        if source is None or reads[source.name] > 1 or often[norm.target] > 1:
            continue
        one, other = submodule(root, source.target), submodule(root, norm.target)
        if often[source.target] == 1 and _can_fold(one, other):
            yield source, norm


def _can_fold(convolution: nn.Module, norm: nn.Module) -> bool:
    if type(norm) is not KINDS.get(type(convolution)) or norm.training:
        return False
    weight, mean = convolution._parameters["weight"], norm._buffers["running_mean"]
    counted = norm._buffers.get("num_batches_tracked") is not None
    if weight is None or mean is None or weight.dtype != mean.dtype or not counted:
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(vars(module)[name] for module in (convolution, norm) for name in hooks)
