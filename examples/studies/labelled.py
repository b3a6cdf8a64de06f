"""Labelled examples: what a classifier learns from and is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
