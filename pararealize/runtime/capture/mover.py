"""Mover: what a training step does with its gradients, inside a graph or behind its replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from pararealize.errors import MethodError
from pararealize.runtime.capture.surroundings import autocast_of
from pararealize.runtime.values.pytree import tensors_of

#: Weights with their gradients.
Pairs = list[tuple[nn.Parameter, Tensor]]


@dataclass(frozen=True)
class StepOptions:
    """How a step trains.

    Attributes:
        optimizer: what moves the weights after ``accumulate`` calls; without one gradients are
            left in ``p.grad``.
        max_norm: gradients are clipped to that 2-norm, all together.
        autocast: the precision of forward and loss, e.g. ``torch.bfloat16``; else that in force.
        scaler: scales losses for ``torch.float16``.
        accumulate: calls whose mean gradient is one step.
        inputs: how many of a call's tensors are the network's; the others are the loss's.

    """

    optimizer: Optimizer | None = None
    max_norm: float | None = None
    autocast: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    accumulate: int = 1
    inputs: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.inputs < 1:
            raise MethodError(
                f"capture_step: accumulate={self.accumulate} and inputs={self.inputs} have to be "
                "1 or more."
            )
        if self.max_norm is not None and not self.max_norm > 0:
            raise MethodError(f"capture_step: max_norm={self.max_norm} has to be above 0.")
        if self.scaler is not None and self.optimizer is None:
            raise MethodError("capture_step: a scaler steps an optimizer: give optimizer= as well.")

    def check_count(self, tensors: Sequence[Tensor]) -> None:
        """Check that a call has the network's inputs.

        Raises:
            MethodError: it has fewer tensors.

        """
        if len(tensors) < self.inputs:
            raise MethodError(
                f"capture_step: the network takes {self.inputs} tensors, and the call has "
                f"{len(tensors)}: step(x, y), the network's inputs first."
            )

    def losses(
        self,
        network: Callable[..., Any],
        loss: Callable[..., Tensor],
        tensors: Sequence[Tensor],
        *,
        cached: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of inputs and targets, and what is differentiated: its share of a step, scaled.

        ``cached`` says whether autocast keeps converted weights, ``None`` that it does as before.
        """
        kind, enabled, dtype = autocast_of(tensors)
        enabled, dtype = enabled or self.autocast is not None, self.autocast or dtype
        with torch.autocast(kind, dtype, enabled, cache_enabled=cached):
            value = loss(network(*tensors[: self.inputs]), *tensors[self.inputs :])
        each = value if self.accumulate == 1 else value / self.accumulate
        return value, each if self.scaler is None else self.scaler.scale(each)


@final
class StepMover:
    """Clips gradients, adds them up and steps the optimizer.

    All that is inside the graph where the optimizer can be: with ``capturable=True``, or SGD whose
    learning rate is a number; without hooks, and once its state is there. Its options are part of
    the graph, but for a learning rate in a tensor, which is followed: once one of them has changed,
    the optimizer is stepped behind the replays. ``clip`` clips gradients that lie on several
    devices or ranks.
    """

    def __init__(self, options: StepOptions, clip: Callable[[float], object] | None = None) -> None:
        self.options, self._clip = options, clip
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._calls = 0
        self._taken: Any = None
        self._stays_outside = False

    @property
    def _clips_inside(self) -> bool:
        return self.options.accumulate == 1 and self.options.scaler is None

    @property
    def is_inside(self) -> bool:
        """Whether the optimizer is stepped inside the graph."""
        optimizer = self.options.optimizer
        if optimizer is None or self._stays_outside or not self._clips_inside:
            return False
        if _is_hooked(optimizer):
            return False
        started = bool(optimizer.state) or _keeps_nothing(optimizer)
        return started and all(map(_can_follow, optimizer.param_groups))

    def has_changed(self) -> bool:
        """Whether options were changed since the last call that a graph has taken over."""
        before = self._taken
        if before and before != self._options():
            self._stays_outside = True
        self._taken = self._options()
        return before is not None and before != self._taken

    def _options(self) -> list[dict[str, Any]]:
        """The options that a graph takes over; none where the optimizer is outside."""
        optimizer = self.options.optimizer
        if optimizer is None or not self.is_inside:
            return []
        return [
            {name: _plain(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]

    def moves(self, weights: Sequence[nn.Parameter]) -> list[Tensor]:
        """The tensors that a step inside the graph moves."""
        if not self.is_inside or self.options.optimizer is None:
            return []
        state = [tensors_of(dict(own)) for own in self.options.optimizer.state.values()]
        return [*weights, *(tensor for own in state for tensor in own)]

    def inside(self, pairs: Pairs) -> Pairs:
        """The part that a graph records: gradients with memory of their own, clipped; a step."""
        pairs = _apart(pairs)
        if self._clips_inside:
            pairs = self._clipped(pairs)
        if self.is_inside and self.options.optimizer is not None:
            _give(pairs)
            self.options.optimizer.step()
        return pairs

    def after(self, pairs: Pairs, *, done: bool) -> None:
        """The part behind a replay, or after a step without a graph, for which nothing is done."""
        self._calls += 1
        options = self.options
        if done and self._clips_inside:
            _give(pairs)
            if options.optimizer is not None and not self._was_inside:
                options.optimizer.step()
            return
        pairs = pairs if done else _apart(pairs)
        if options.accumulate > 1:
            pairs = self._summed(pairs)
            if self._calls % options.accumulate:
                return
        _give(pairs)
        if options.scaler is not None and options.optimizer is not None:
            self._scaled(options.scaler, options.optimizer, pairs)
            return
        if self.options.max_norm is not None:
            _give(self._clipped(pairs))
        if options.optimizer is not None:
            options.optimizer.step()

    @property
    def _was_inside(self) -> bool:
        """Whether the graphs that there are step the optimizer."""
        return bool(self._taken)

    def _scaled(self, scaler: torch.amp.GradScaler, optimizer: Optimizer, pairs: Pairs) -> None:
        if self.options.max_norm is not None:
            scaler.unscale_(optimizer)
            _give(self._clipped(pairs))
        scaler.step(optimizer)
        scaler.update()

    def _summed(self, pairs: Pairs) -> Pairs:
        """Gradients of the calls so far whose mean is one step."""
        if self._calls % self.options.accumulate == 1:
            self._sums = {weight: gradient.clone() for weight, gradient in pairs}
            return list(self._sums.items())
        for weight, gradient in pairs:
            if weight in self._sums:
                self._sums[weight].add_(gradient)
            else:
                self._sums[weight] = gradient.clone()
        return list(self._sums.items())

    def _clipped(self, pairs: Pairs) -> Pairs:
        """Gradients times max_norm / norm, where the norm is larger."""
        if self.options.max_norm is None or not (pairs or self._clip):
            return pairs
        if self._clip is not None:
            _give(pairs)
            self._clip(self.options.max_norm)
            return pairs
        gradients = [gradient for _, gradient in pairs]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        factor = (self.options.max_norm / (norm + 1e-6)).clamp(max=1.0)
        clipped = torch._foreach_mul(gradients, factor)
        return [(weight, new) for (weight, _), new in zip(pairs, clipped, strict=True)]


def hooked(weight: nn.Parameter, gradient: Tensor) -> Tensor:
    """The gradient as the weight's hooks leave it.

    Raises:
        MethodError: a hook waits for autograd to add the gradient up, which no captured step does.

    """
    if getattr(weight, "_post_accumulate_grad_hooks", None):
        raise MethodError(
            f"a weight of shape {list(weight.shape)} has a hook of "
            "register_post_accumulate_grad_hook, and captured steps add gradients up themselves: "
            "use register_hook, or do what it does after step(...)."
        )
    for hook in (weight._backward_hooks or {}).values():
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient


def _apart(pairs: Pairs) -> Pairs:
    """Gradients of which no two share memory."""
    seen: set[int] = set()
    found = []
    for weight, gradient in pairs:
        place = gradient.untyped_storage().data_ptr()
        alone = place not in seen and gradient.is_contiguous()
        seen.add(place)
        found.append((weight, gradient if alone else gradient.clone()))
    return found


def _give(pairs: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    for weight, gradient in pairs:
        if weight.grad is not gradient:
            weight.grad = gradient


def _is_hooked(optimizer: Optimizer) -> bool:
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def _keeps_nothing(optimizer: Optimizer) -> bool:
    return type(optimizer) is SGD and not any(group["momentum"] for group in optimizer.param_groups)


def _can_follow(group: dict[str, Any]) -> bool:
    """Whether a step needs no number of a tensor on the host."""
    if "capturable" in group:
        return bool(group["capturable"])
    is_sgd = "nesterov" in group and "dampening" in group
    return is_sgd and not isinstance(group["lr"], Tensor) and not group.get("differentiable")


def _plain(value: Any) -> Any:
    """A value to compare; numbers in a tensor are followed where they lie."""
    return (id(value), value.data_ptr()) if isinstance(value, Tensor) else value
