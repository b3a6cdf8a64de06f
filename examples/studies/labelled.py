"""Labelled examples: what a classifier learns from and is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pararealize.cli.digits import Digits
from pararealize.cli.training import choices, shifted
from studies.texts import Texts


@dataclass(frozen=True)
class Examples:
    """Inputs `[count, ...]` and their classes, int64, to train and to test with.

    Labels are `[count]`, or `[count, positions]` where every position has a class.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    @classmethod
    def of_digits(cls, digits: Digits) -> Examples:
        """Images and labels of digits."""
        return cls(digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)

    @classmethod
    def of_texts(cls, texts: Texts) -> Examples:
        """Windows of text `[count, context]`, and the character that comes next everywhere."""
        train, test = texts.train, texts.held_out
        return cls(train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:])

    @property
    def classes(self) -> int:
        """How many there are: one more than the largest label."""
        return 1 + int(max(self.train_labels.max(), self.test_labels.max()))

    def flat(self) -> Examples:
        """Every example as one vector."""
        train, test = self.train_inputs.flatten(1), self.test_inputs.flatten(1)
        return replace(self, train_inputs=train, test_inputs=test)

    def as_digits(self, source: str) -> Digits:
        """Images and their labels as what trains on digits takes them."""
        return Digits(
            *(self.train_inputs, self.train_labels, self.test_inputs, self.test_labels), source
        )

    def batches(
        self, size: int, epochs: int, seed: int, shift: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels `[size, ...]` of every step; an epoch's last may be fewer.

        Images `[size, 1, side, side]` can be moved by up to `shift` pixels each way.
        """
        generator = torch.Generator().manual_seed(seed)
        for chosen in choices(len(self.train_labels), size, epochs, generator):
            inputs = self.train_inputs[chosen]
            moved = shifted(inputs, shift, generator) if shift else inputs
            yield moved, self.train_labels[chosen]
