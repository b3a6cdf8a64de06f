"""Whether two answers are the same."""

from __future__ import annotations

import pytest
import torch

from pararealize.runtime.monitoring.answers import agreements, classes, divergence, errors


def test_scores_are_compared_by_their_class() -> None:
    found = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    serial = torch.tensor([[0.0, 9.0, 1.0], [1.0, 2.0, 3.0]])
    assert agreements(found, serial).tolist() == [True, False]
    text = torch.stack([found, serial])  # [batch, positions, classes]
    assert agreements(text, serial.expand(2, 2, 3)).tolist() == [True, False, True, True]


def test_maps_have_their_classes_on_the_second_axis() -> None:
    maps = torch.zeros(2, 3, 2, 2)
    maps[:, 1] = 1
    assert classes(maps).shape == (2, 2, 2)
    assert bool((classes(maps) == 1).all())


def test_numbers_agree_within_a_percent() -> None:
    serial = torch.tensor([[100.0], [100.0], [0.0]])
    found = torch.tensor([[100.9], [101.1], [0.0]])
    assert classes(found) is None
    assert agreements(found, serial).tolist() == [True, False, True]


def test_errors_are_relative_to_the_serial_answer() -> None:
    found = errors(torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [1.0, 1.0]]))
    assert found.tolist() == [0.75, 0.0]


def test_divergence_is_that_of_probabilities() -> None:
    serial, found = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[3.0, 2.0], [2.0, 0.0]])
    p, q = serial.softmax(-1)[0], found.softmax(-1)[0]
    wanted = float((p * (p / q).log()).sum()) / 2  # the other sample's is none
    assert float(divergence(found, serial)) == pytest.approx(wanted, rel=1e-6)
    maps = [scores[:, :, None, None].expand(2, 2, 3, 3) for scores in (found, serial)]
    assert float(divergence(*maps)) == pytest.approx(wanted, rel=1e-6)
    assert divergence(found[:, :1], serial[:, :1]) is None
