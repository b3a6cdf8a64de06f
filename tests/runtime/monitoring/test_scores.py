"""Where the classes of an answer lie, and how sure it is of them."""

from __future__ import annotations

import math

import pytest
import torch

from pararealize.runtime.monitoring.answers import class_axis, entropies


def test_classes_are_the_last_axis_or_the_second_of_maps() -> None:
    assert class_axis(torch.zeros(2, 5)) == -1
    assert class_axis(torch.zeros(2, 7, 5)) == -1
    assert class_axis(torch.zeros(2, 5, 4, 4)) == 1
    assert class_axis(torch.zeros(5)) is None
    assert class_axis(torch.zeros(2, 1)) is None


def test_entropies_are_means_over_positions() -> None:
    even, sure = [0.0, 0, 0, 0], [0.0, -math.inf, -math.inf, -math.inf]
    texts = torch.tensor([[even, even], [even, sure]])
    found = entropies(texts)
    assert found is not None
    assert found.tolist() == pytest.approx([math.log(4), math.log(4) / 2])
    assert entropies(texts[0]) is None  # one answer a sample
    assert entropies(torch.zeros(2, 3, 1)) is None
