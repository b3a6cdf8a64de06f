"""Control: residual networks as discretised optimal control, with the objective that they minimise.

Günther, Ruthotto, Schroder, Cyr and Gauger, "Layer-Parallel Training of Deep Residual Neural
Networks" (arXiv:1812.04352). The architecture, the objective and the way weights are drawn are
those of the authors' code, LayerParallelLearning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Half the width of the interval on which the rectifier is smoothed.
SMOOTH = 0.1


def smooth_relu(x: Tensor) -> Tensor:
    """max(0, x), and x²/4η + x/2 + η/4 for |x| < η = 0.1."""
    return functional.relu(x) + functional.relu(SMOOTH - x.abs()).square() / (4 * SMOOTH)


class Rollout(torch.autograd.Function):
    """All steps x + dt σ(W x + b) of states ``[width, count]``, with a gradient written out.

    Thousands of small tensors would cost more than what is computed with them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, biases: Tensor, dt: float, room: Tensor
    ) -> Tensor:
        """The last state; weights are ``[layers, width, width]``, biases ``[layers]``.

        ``room`` is for 2 × layers + 1 states, which a later call writes over.
        """
        states, slopes = room[: len(weights) + 1], room[len(weights) + 1 :]
        states[0] = x
        bent, above = torch.empty_like(x), torch.empty_like(x)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            z = slopes[i]
            torch.mm(weight, states[i], out=z)
            z.add_(bias)
            torch.sub(z, SMOOTH, out=above)
            z.clamp_(-SMOOTH, SMOOTH).add_(SMOOTH)  # σ'(z) 2η
            torch.mul(z, z, out=bent).mul_(1 / (4 * SMOOTH)).add_(above.clamp_(min=0))
            torch.add(states[i], bent, alpha=dt, out=states[i + 1])
        ctx.save_for_backward(weights, room)
        ctx.dt = dt
        return states[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Adjoints from the last state to the first."""
        weights, room = ctx.saved_tensors
        states, slopes = room[: len(weights) + 1], room[len(weights) + 1 :]
        of_weights, of_biases = torch.empty_like(weights), weights.new_empty(len(weights))
        grad, bent = grad.clone(), torch.empty_like(grad)
        for i in reversed(range(len(weights))):
            torch.mul(slopes[i], grad, out=bent).mul_(ctx.dt / (2 * SMOOTH))
            torch.mm(bent, states[i].T, out=of_weights[i])
            of_biases[i] = bent.sum()
            grad.addmm_(weights[i].T, bent)
        return grad, of_weights, of_biases, None, None


class Affine(nn.Module):
    """``W x + b``, with one number b for all channels where ``single``.

    Weights and biases are drawn from [0, ``scale``].
    """

    def __init__(self, inputs: int, outputs: int, scale: float, *, single: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.rand(outputs, inputs))
        self.bias = nn.Parameter(scale * torch.rand(1 if single else outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[count, inputs]`` to ``[count, outputs]``."""
        if len(self.bias) > 1:
            return torch.addmm(self.bias, x, self.weight.T)
        return x @ self.weight.T + self.bias


class ControlStep(Affine):
    """x + dt σ(W x + b)."""

    def __init__(self, width: int, dt: float, scale: float) -> None:
        super().__init__(width, width, scale)
        self.dt = dt

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[count, width]`` to the same shape."""
        return torch.add(x, smooth_relu(super().forward(x)), alpha=self.dt)


@dataclass(frozen=True)
class Setting:
    """What a network is made of and what its objective adds to the cross-entropy.

    Initial weights are drawn from [0, ``scale``] for the steps, [0, ``ends``] for the first and the
    last layer. ``tikhonov``/2 ‖θ‖² is added for all weights and ``smoothness``/2 ‖∂θ/∂t‖² for those
    of the steps.
    """

    width: int = 8
    inputs: int = 2
    classes: int = 5
    horizon: float = 1.0
    scale: float = 0.0
    ends: float = 1e-3
    tikhonov: float = 1e-7
    smoothness: float = 1e-5


class ControlNet(nn.Module):
    """σ(W x + b), then ``layers`` steps of length ``horizon / layers``, then class scores."""

    def __init__(self, layers: int, setting: Setting) -> None:
        super().__init__()
        self.setting, width = setting, setting.width
        self.dt = setting.horizon / layers
        self.opening = Affine(setting.inputs, width, setting.ends)
        self.steps = nn.Sequential(
            *(ControlStep(width, self.dt, setting.scale) for _ in range(layers))
        )
        self._room: Tensor | None = None
        self.closing = Affine(width, setting.classes, setting.ends, single=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[count, inputs]`` to class scores."""
        scores: Tensor = self.closing(self.rolled(x, *self._stacked()))
        return scores

    def rolled(self, x: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """The last state ``[count, width]``: what ``steps`` give, faster."""
        first = smooth_relu(self.opening(x)).T.contiguous()
        # Kept for the next call: fresh memory takes longer than what is computed in it.
        wanted = (2 * len(weights) + 1, *first.shape)
        if self._room is None or self._room.shape != wanted or self._room.dtype != first.dtype:
            self._room = first.new_empty(wanted)
        last: Tensor = Rollout.apply(first, weights, biases, self.dt, self._room)  # type: ignore[no-untyped-call]
        return last.T

    def objective(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy, with what keeps weights small and smooth in depth."""
        own, (weights, biases) = self.setting, self._stacked()
        loss = functional.cross_entropy(self.closing(self.rolled(x, weights, biases)), labels)
        ends = [p for end in (self.opening, self.closing) for p in end.parameters()]
        squares = sum(p.square().sum() for p in (*ends, weights, biases))
        slopes = sum(p.diff(dim=0).square().sum() for p in (weights, biases)) / self.dt**2
        return loss + own.tikhonov / 2 * squares + own.smoothness / 2 * slopes

    def _stacked(self) -> tuple[Tensor, Tensor]:
        steps = [step for step in self.steps if isinstance(step, ControlStep)]
        return torch.stack([step.weight for step in steps]), torch.cat([s.bias for s in steps])
