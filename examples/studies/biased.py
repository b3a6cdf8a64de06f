"""Biased: how far the gradients of multigrid cycles lie from the serial ones in a training.

Bertsekas and Tsitsiklis, "Gradient Convergence in Gradient Methods with Errors" (SIAM J. Optim. 10,
2000): x ← x - α_t (g_t + w_t) brings ∇L to zero where Σ α_t is infinite and Σ α_t² finite, w_t
has mean zero and a variance of the order of 1 + ‖∇L‖², and the mean gradient g_t has
c₁ ‖∇L‖² ≤ ⟨g_t, ∇L⟩ and ‖g_t‖ ≤ c₂ (1 + ‖∇L‖) with c₁ > 0. With a bias ‖g_t - ∇L‖ ≤ β ‖∇L‖,
β < 1, it has them: c₁ = 1 - β, c₂ = 1 + β.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import ParallelNetwork
from pararealize.cli.training import score
from studies.labelled import Examples


@dataclass(frozen=True)
class Rates:
    """Learning rates ``first · (1 + t / delay)^-power`` with ½ < power ≤ 1.

    Their sum is infinite, that of their squares is not: it is less than :attr:`limit`.
    """

    first: float = 0.2
    delay: float = 100.0
    power: float = 0.75

    def at(self, t: int) -> float:
        """The rate of step t, from 0."""
        return float(self.first * (1 + t / self.delay) ** -self.power)

    @property
    def limit(self) -> float:
        """What no sum of squares exceeds: the first one, and the integral over all t."""
        return self.first**2 * (1 + self.delay / (2 * self.power - 1))


@dataclass(frozen=True)
class Bias:
    """An approximate gradient beside the exact one, on the same examples.

    ``relative`` is ‖g - ∇L‖ / ‖∇L‖, ``along`` is ⟨g, ∇L⟩ / ‖∇L‖², ``norm`` is ‖∇L‖.
    """

    step: int
    relative: float
    along: float
    norm: float

    @classmethod
    def of(cls, step: int, found: Tensor, exact: Tensor) -> Bias:
        """The two gradients, each as one vector."""
        size = exact.norm()
        relative, along = (found - exact).norm() / size, found @ exact / size**2
        return cls(step, relative.item(), along.item(), size.item())


@dataclass(frozen=True)
class BiasedTraining:
    """What a training came to: the bias by step, on the step's batch and on all examples.

    ``estimates`` are the solver's own of every step, ``serial_steps`` those that it ran serially as
    cycles diverged.
    """

    batches: tuple[Bias, ...]
    whole: tuple[Bias, ...]
    estimates: tuple[float, ...]
    serial_steps: int
    accuracy: float


def train(
    model: nn.Module,
    prepare: Callable[[nn.Module], ParallelNetwork] | None,
    examples: Examples,
    rates: Rates,
    *,
    steps: int,
    batch: int,
    every: int,
    seed: int,
) -> BiasedTraining:
    """SGD with the gradients of ``prepare(model)``, or with the serial ones.

    On all examples gradients are compared every so many steps.
    """
    net = prepare(model) if prepare else model
    own, serial = list(net.parameters()), list(model.parameters())
    batches: list[Bias] = []
    whole: list[Bias] = []
    estimates: list[float] = []
    for t, (x, y) in enumerate(_drawn(examples, batch, steps, seed)):
        if t % every == 0:
            inputs, labels = examples.train_inputs, examples.train_labels
            exact = gradient(model, inputs, labels)
            whole.append(Bias.of(t, gradient(net, inputs, labels), exact))
        found = gradient(net, x, y)
        estimates.append(net.report.bias if isinstance(net, ParallelNetwork) else 0.0)
        batches.append(Bias.of(t, found, gradient(model, x, y)))
        # A compiled network has weights of its own, in the order of the model's.
        reached = nn.utils.parameters_to_vector(own).detach() - rates.at(t) * found
        nn.utils.vector_to_parameters(reached, own)
        nn.utils.vector_to_parameters(reached.clone(), serial)
    in_series = net.report.serial_steps if isinstance(net, ParallelNetwork) else 0
    _, share = score(model, examples.test_inputs, examples.test_labels)
    return BiasedTraining(tuple(batches), tuple(whole), tuple(estimates), in_series, share)


def gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean cross-entropy, as one vector."""
    loss = functional.cross_entropy(net(x), y)
    parts = torch.autograd.grad(loss, list(net.parameters()))
    return torch.cat([part.flatten() for part in parts])


def _drawn(
    examples: Examples, batch: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches."""
    epochs = -(-steps * batch // len(examples.train_labels)) + 1
    for _, drawn in zip(range(steps), examples.batches(batch, epochs, seed), strict=False):
        yield drawn
