"""Start: factored layers that stand for what the network's layers answer to the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from pararealize.calibration.candidates import Built
from pararealize.calibration.observe import Observed, states_of
from pararealize.calibration.subject import Subject
from pararealize.coarse.copies import replica
from pararealize.propagators.factored import FactoredLayer, Layer, by_channel
from pararealize.propagators.fresh import Fresh
from pararealize.runtime.values.pytree import leaves_of


@dataclass
class Moments:
    """Count, sum and sum of products of a layer's answers, over samples and places."""

    count: int = 0
    total: Tensor | float = 0.0
    products: Tensor | float = 0.0

    def add(self, answers: Tensor) -> None:
        """More answers, ``[places, channels]``."""
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
        """Of the channels, ``[channels, channels]``."""
        return torch.as_tensor(self.products / self.count) - torch.outer(self.mean, self.mean)


@torch.no_grad()
def start(subject: Subject, built: Built, observed: Observed) -> None:
    """Let every factored layer have the least squared error on the stored states."""
    for j, coarse in built.coarse.items():
        module = coarse.module
        if not isinstance(module, Fresh):
            continue
        factored = {k: m for k, m in module.layers.items() if isinstance(m, FactoredLayer)}
        if factored:
            whole = _whole(subject, j)
            originals = {key: cast("Layer", whole.layers[key]) for key in factored}
            moments = _moments(whole, originals, _values(subject, j, coarse.inputs, observed))
            for key, seen in moments.items():
                factored[key].project(originals[key], seen.mean, seen.covariance)


def _whole(subject: Subject, j: int) -> Fresh:
    """A copy of subnetwork j with all of its layers as they are."""
    partition, serial = subject.decisions.partition, subject.emission.serial
    segment = replica(partition.chain, serial, *partition.piece(j))
    return Fresh(serial, segment, bias=True, trained=True).eval()


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
    """Of what these layers of a copy answer to the values."""
    found = {key: Moments() for key in layers}

    def note(key: str, layer: Layer, _inputs: Any, answer: Tensor) -> None:
        found[key].add(by_channel(layer, answer))

    for key, layer in layers.items():
        layer.register_forward_hook(partial(note, key))
    for given in values:
        whole(*given)
    return found
