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
from pararealize.calibration.strides import Interval, Stride, piece
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
                samples, told = self._guessed(j), self.budget.noted(advance)
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
        found = {
            (t.level, t.number): Fit(t.number, c.kind, count(c.module), *errors[t], level=t.level)
            for t, c in built.coarse.items()
        }
        return tuple(row for _, row in sorted(self.subject.together(found).items()))

    def _round(self, built: Built, responses: Responses | None) -> dict[Target, Errors]:
        fitters = {stride: built.fitter(stride) for stride in wanted(self.subject)}
        active = {
            stride: fitter
            for stride, fitter in fitters.items()
            if (fitter.corrector if responses else fitter.sweeper) is not None
        }
        none: Errors = (None, None)
        found = {} if responses else {stride.target: none for stride in fitters}
        fits = sum(f.module is not None for f in active.values())
        with self.progress.task(f"{built.name} coarse networks", self._steps * fits) as advance:
            left = fits if responses else 2 * fits  # another round follows the first
            for stride, fitter in active.items():
                samples, told = self._samples(stride, responses), self.budget.noted(advance)
                seconds = self.budget.until(self.share) / max(1, left)
                left -= fitter.module is not None
                seed = self.options.seed + stride.seed
                found[stride.target] = fit(fitter, samples, self.options, seed, told, seconds)
        return found

    @property
    def _steps(self) -> int:
        return steps_of(self.options, len(self.observed.fitted))

    def _guessed(self, j: int) -> Samples:
        """States before subnetwork j, of the network's inputs alone."""

        def read(record: Mapping[str, Any], _response: Any) -> Sample:
            state = states_of(record, piece(j))[0]
            return Sample(None, state, self.subject.named(record["inputs"]))

        return self._read(read, None)

    def _samples(self, stride: Stride, responses: Responses | None) -> Samples:
        """States at both ends of a subnetwork or group, with what it made of guesses."""

        def read(record: Mapping[str, Any], response: Mapping[Interval, Any]) -> Sample:
            inputs = self.subject.named(record["inputs"])
            states = states_of(record, stride.interval)
            return Sample(*states, inputs, *response.get(stride.interval, ()))

        return self._read(read, responses)

    def _read(self, read: Callable[..., Sample], responses: Responses | None) -> Samples:
        def one(store: Store, response: Store | None, i: int) -> Sample:
            return read(store[i], {} if response is None else response[i])

        def every(store: Store, response: Store | None) -> list[Callable[[], Sample]]:
            return [partial(one, store, response, i) for i in range(len(store))]

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
def start(built: Built, observed: Observed) -> None:
    """Let every factored layer have the least squared error on the stored states."""
    for stride in wanted(built.subject):
        module = built.coarse[stride.target].module
        if not isinstance(module, Fresh):
            continue
        factored = {k: m for k, m in module.layers.items() if isinstance(m, FactoredLayer)}
        if factored:
            whole = _whole(built.subject, stride)
            originals = {key: cast("Layer", whole.layers[key]) for key in factored}
            for key, seen in _moments(whole, originals, _values(built, stride, observed)).items():
                factored[key].project(originals[key], seen.mean, seen.covariance)


def _whole(subject: Subject, stride: Stride) -> Fresh:
    """A copy of all layers of a subnetwork or group."""
    bounds, layers = subject.partition.bounds, subject.layers
    chain, (first, last) = subject.partition.chain, (bounds[stride.start], bounds[stride.end])
    return Fresh(layers, replica(chain, layers, first, last), bias=True, trained=True).eval()


def _values(built: Built, stride: Stride, observed: Observed) -> Iterator[list[Any]]:
    """What a subnetwork or group was given, batch by batch."""
    names = built.coarse[stride.target].inputs
    for record in observed.fitted:
        inputs = built.subject.named(record["inputs"])
        before = states_of(record, stride.interval)[0]
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
