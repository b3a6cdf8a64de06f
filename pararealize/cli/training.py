"""Train and test a classifier of digits, for the demo and the studies in ``examples/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.cli.digits import Digits

#: What is called after every step with its loss.
OnStep = Callable[[float], None]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum and a one-cycle learning rate.

    ``rate`` is the largest learning rate; images are moved by up to ``shift`` pixels each way;
    ``seed`` decides their order and shifts.
    """

    epochs: int = 3
    batch: int = 50
    rate: float = 0.2
    momentum: float = 0.9
    decay: float = 5e-4
    shift: int = 1
    seed: int = 0

    def steps(self, images: int) -> int:
        """Training steps for so many images; the last, smaller batch of an epoch counts."""
        return self.epochs * -(-images // self.batch)


@dataclass(frozen=True)
class TrainingOutcome:
    """What training came to: the loss of every step, and test loss and accuracy at the end."""

    losses: tuple[float, ...] = field(repr=False)
    test_loss: float
    accuracy: float


def train(net: nn.Module, digits: Digits, recipe: Recipe, on_step: OnStep) -> TrainingOutcome:
    """Train ``net`` on the training digits and test it."""
    steps = recipe.steps(len(digits.train_labels))
    losses = descend(net, _batches(digits, recipe), steps, recipe, on_step)
    return TrainingOutcome(losses, *score(net, digits.test_images, digits.test_labels))


def descend(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    recipe: Recipe,
    on_step: OnStep,
) -> tuple[float, ...]:
    """Train ``net`` on so many batches as the recipe says; the loss of every step."""
    # Faster for small convolutions on CPUs.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=recipe.rate,
        momentum=recipe.momentum,
        weight_decay=recipe.decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    return fit(net, batches, optimizer, schedule, on_step)


def fit(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    on_step: OnStep,
) -> tuple[float, ...]:
    """The cross-entropy of every step, one a batch of inputs and labels.

    Class scores are ``[..., classes]`` and labels ``[...]``: one an example, or one a position.
    """
    losses = []
    net.train()
    for inputs, labels in batches:
        loss = _cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        on_step(losses[-1])
    return tuple(losses)


def choices(count: int, batch: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of the examples of every batch; each epoch has all ``count``, in an order drawn."""
    for _ in range(epochs):
        yield from torch.split(torch.randperm(count, generator=generator), batch)


def _batches(digits: Digits, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(recipe.seed)
    for chosen in choices(len(digits.train_labels), recipe.batch, recipe.epochs, generator):
        images = shifted(digits.train_images[chosen], recipe.shift, generator)
        yield images, digits.train_labels[chosen]


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Every image ``[count, 1, side, side]`` moved by up to ``most`` pixels, edges repeated."""
    count, _, side, _ = images.shape
    steps = torch.randint(2 * most + 1, (2, count, 1), generator=generator) + torch.arange(side)
    rows, columns = (steps - most).clamp(0, side - 1)
    each = torch.arange(count)
    return images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def predict(net: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    """Class scores ``[count, ..., classes]`` in eval mode."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part) for part in torch.split(images, batch)])


def score(net: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in eval mode."""
    scores = predict(net, inputs)
    loss = _cross_entropy(scores, labels).item()
    return loss, (scores.argmax(-1) == labels).float().mean().item()


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(scores.flatten(0, -2), labels.flatten())


def running_mean(values: tuple[float, ...], window: int) -> list[float]:
    """Means over the last ``window`` values."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))
    ]
