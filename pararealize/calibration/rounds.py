"""Rounds: networks of a rank start from the states kept there, and are fitted to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from pararealize.calibration.budget import Budget
from pararealize.calibration.candidates import Built, wanted
from pararealize.calibration.fit import Errors, Fitter, Sample, Samples, fit, steps_of
from pararealize.calibration.observe import Observed, Store, respond, states_of
from pararealize.calibration.subject import Subject
from pararealize.coarse.copies import replica
from pararealize.cost.predict import count
from pararealize.ir.calibration import Fit, Fitting
from pararealize.ir.target import Target
from pararealize.propagators.factored import FactoredLayer, Layer, by_channel
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.registered import Registered
from pararealize.runtime.monitoring.progress import Progress
from pararealize.runtime.values.pytree import leaves_of

#: What was made of guesses: of the records fitted to, and of those held out.
Responses = tuple[Store, Store]


@dataclass(frozen=True)
class Rounds:
    """Fits networks to what was observed of a subject, until a share of the budget is spent."""

    subject: Subject
    observed: Observed
    options: Fitting
    progress: Progress
    budget: Budget
    share: float = 1.0

    def guesses(self, registry: nn.ModuleDict) -> None:
        """Fit every guess network of this rank to the state before its subnetwork."""
        for j in self.subject.pieces:
            seconds = self.budget.until(self.share) / max(1, len(registry))
            part = self.subject.emission.propagators.get(Target.guess(j - 1))
            if str(j - 1) not in registry or not isinstance(part, Registered):
                continue
            fitter = Fitter(registry[part.key], part.within(registry))
            with self.progress.task(f"guess network {j - 1}", self._steps) as advance:
                samples, told = self._samples(j, None, guess=True), self.budget.noted(advance)
                fit(fitter, samples, self.options, self.options.seed + j, told, seconds)

    def coarse(self, built: Built) -> tuple[Fit, ...]:
        """Fit coarse networks on the trajectory, then where their guesses lie; all ranks' errors.

        A sweep has to make good the guesses that were made, so these are what the second round is
        about: u⁰ and Φ(u⁰) of every sample. What only guesses stays as it made them.
        """
        memory = self.options.memory // 2
        with Store(memory) as near, Store(memory) as far:
            errors = self._round(built, None)
            respond(self.subject, built.parts, self.observed.fitted, near)
            respond(self.subject, built.parts, self.observed.held_out, far)
            errors |= self._round(built, (near, far))
        found = {j: Fit(j, c.kind, count(c.module), *errors[j]) for j, c in built.coarse.items()}
        return tuple(row for _, row in sorted(self.subject.together(found).items()))

    def _round(self, built: Built, responses: Responses | None) -> dict[int, Errors]:
        fitters = {j: built.fitter(self.subject, j) for j in wanted(self.subject)}
        active = {
            j: f
            for j, f in fitters.items()
            if (f.corrector if responses else f.sweeper) is not None
        }
        found: dict[int, Errors] = {} if responses else dict.fromkeys(fitters, (None, None))
        fits = sum(f.module is not None for f in active.values())
        with self.progress.task(f"{built.kind} coarse networks", self._steps * fits) as advance:
            left = fits if responses else 2 * fits  # another round follows the first
            for j, fitter in active.items():
                samples, told = self._samples(j, responses), self.budget.noted(advance)
                seconds = self.budget.until(self.share) / max(1, left)
                left -= fitter.module is not None
                found[j] = fit(fitter, samples, self.options, self.options.seed + j, told, seconds)
        return found

    @property
    def _steps(self) -> int:
        return steps_of(self.options, len(self.observed.fitted))

    def _samples(self, j: int, responses: Responses | None, *, guess: bool = False) -> Samples:
        def read(store: Store, response: Store | None, i: int) -> Sample:
            record = store[i]
            (before, after), inputs = states_of(record, j), self.subject.named(record["inputs"])
            if guess:
                return Sample(None, before, inputs)
            near = {} if response is None else response[i]
            return Sample(before, after, inputs, *near.get(j, ()))

        def every(store: Store, response: Store | None) -> list[Callable[[], Sample]]:
            return [partial(read, store, response, i) for i in range(len(store))]

        near, far = responses or (None, None)
        return Samples(every(self.observed.fitted, near), every(self.observed.held_out, far))


@dataclass
class Moments:
    """Count, sum and sum of products of a layer's answers, over samples and positions."""

    count: int = 0
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0

    def add(self, answers: Tensor) -> None:
        """Count more answers, ``[positions, channels]``."""
        answers = answers.double()
        self.count += len(answers)
        self.total = self.total + answers.sum(0)
        self.products = self.products + answers.T @ answers

    @property
    def mean(self) -> Tensor:
        """The mean of every channel."""
        return torch.as_tensor(self.total / self.count)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the channels, ``[channels, channels]``."""
        return torch.as_tensor(self.products / self.count) - torch.outer(self.mean, self.mean)


@torch.no_grad()
def start(subject: Subject, built: Built, observed: Observed) -> None:
    """Let every factored layer have the least squared error on the stored states."""
    partition, serial = subject.partition, subject.emission.serial
    for j, coarse in built.coarse.items():
        module = coarse.module
        if not isinstance(module, Fresh):
            continue
        factored = {k: m for k, m in module.layers.items() if isinstance(m, FactoredLayer)}
        if factored:
            segment = replica(partition.chain, serial, *partition.piece(j))
            whole = Fresh(serial, segment, bias=True, trained=True).eval()
            originals = {key: cast("Layer", whole.layers[key]) for key in factored}
            moments = _moments(whole, originals, _values(subject, j, coarse.inputs, observed))
            for key, seen in moments.items():
                factored[key].project(originals[key], seen.mean, seen.covariance)


def _values(
    subject: Subject, j: int, names: tuple[str, ...], observed: Observed
) -> Iterator[list[Any]]:
    """What subnetwork j was given, batch by batch."""
    for record in observed.fitted:
        inputs = subject.named(record["inputs"])
        before = states_of(record, j)[0]
        state = [] if before is None else leaves_of(before)
        yield [*state, *(inputs[name] for name in names)]


def _moments(
    whole: Fresh, layers: Mapping[str, Layer], values: Iterator[list[Any]]
) -> dict[str, Moments]:
    """Moments of what these layers of a copy answer to the values."""
    found = {key: Moments() for key in layers}

    def note(key: str, layer: Layer, _inputs: Any, answer: Tensor) -> None:
        found[key].add(by_channel(layer, answer))

    for key, layer in layers.items():
        layer.register_forward_hook(partial(note, key))
    for given in values:
        whole(*given)
    return found
