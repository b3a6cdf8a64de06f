"""Measures of jumps, sample by sample, and the rule that goes by them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pararealize.ir.schedule import Watch
from pararealize.runtime.monitoring.measures import (
    Measure,
    batch_of,
    measured,
    measures,
    shared,
    sizes,
    tables,
)
from pararealize.runtime.monitoring.rules import BelowTolerance


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def measure(sweep: int, norms: Tensor, scales: Tensor) -> Measure:
    return Measure(sweep, 1, norms, scales, torch.zeros_like(norms))


def test_sizes_are_of_samples_where_all_leaves_have_them() -> None:
    state = numbers(3, 0).reshape(2, 1), numbers(4, 0, 0, 6).reshape(2, 1, 2)
    assert sizes(state, 2).tolist() == [5, 6]
    assert sizes((numbers(3, 4), torch.tensor([7, 7])), 2).tolist() == [3, 4]  # integers are none
    assert sizes(torch.tensor([3 + 4j, 0]), 2).tolist() == [5, 0]


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_otherwise_there_is_one_size_for_all(batch: int) -> None:
    assert sizes((numbers(3, 0), numbers(0, 0, 4)), batch).tolist() == [5]
    assert sizes(torch.tensor(2.0), batch).tolist() == [2]
    assert sizes((), batch).tolist() == [0]


def test_the_batch_is_the_first_axis_of_the_first_input_that_has_one() -> None:
    assert batch_of({"scale": torch.tensor(2.0), "x": torch.ones(5, 2), "y": torch.ones(3)}) == 5
    assert batch_of({"flag": True}) == 0


def test_jumps_and_scales_come_in_pairs() -> None:
    new = torch.tensor([[3.0, 4.0], [0.0, 2.0]], requires_grad=True)
    (table,) = measured([(new, new - 1)], 2)
    assert torch.allclose(table, numbers(2**0.5, 2**0.5, 5, 2).view(2, 2))
    assert (table.dtype, table.requires_grad) == (torch.float64, False)
    assert measured([], 2) == []


def test_distances_are_those_of_known_interfaces() -> None:
    pairs = [(torch.ones(2, 1), torch.zeros(2, 1))] * 2 + [(torch.ones(3), torch.zeros(3))]
    known = dict.fromkeys(((0, 5), (0, 6)), lambda _, batch: numbers(*range(batch)))
    plain, far, whole = tables([Watch(0, j, "new", "old") for j in (4, 5, 6)], pairs, 2, known)
    other = tables([Watch(1, 5, "new", "old")], pairs[:1], 2, known)
    assert other[0][2].tolist() == [0, 0]  # of another sweep
    assert plain.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert far[2].tolist() == [0, 1]
    assert whole[2].tolist() == [1]  # samples are not told apart: the farthest


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_ranks_share_tables_of_either_width(batch: int) -> None:
    one, other = torch.rand(3, batch, dtype=torch.float64), torch.rand(3, 1, dtype=torch.float64)
    numbers_of_0 = []
    shared({1: other}, 2, batch, lambda table: numbers_of_0.append(table) or table)
    both = shared({0: one}, 2, batch, lambda table: table + numbers_of_0[0])
    assert torch.equal(both[0], one)
    assert torch.equal(both[1], other)


def test_relative_jumps_are_never_called_small_where_they_are_not_known() -> None:
    found = measure(0, numbers(0, 1, 1, math.nan, math.inf), numbers(0, 2, 0, 1, math.inf)).relative
    assert found.tolist() == [0, 0.5, math.inf, math.inf, math.inf]


def test_jumps_of_a_report_are_of_the_whole_batch_and_of_every_sample() -> None:
    (found,) = measures(
        [Watch(1, 2, "new", "old")], [torch.stack((numbers(3, 4), numbers(6, 80), numbers(0, 0)))]
    )
    jump = found.jump()
    assert (jump.sweep, jump.interface, jump.norm) == (1, 2, 5)
    assert jump.relative == pytest.approx(5 / math.hypot(6, 80))
    assert jump.samples == (0.5, 0.05)
    assert jump.largest == 0.5


def test_the_worst_sample_of_the_last_sweep_decides() -> None:
    one = numbers(1, 1)
    first, last = measure(0, numbers(9, 9), one), measure(1, numbers(0.1, 0.5), one)
    assert BelowTolerance(0.5).is_enough([first, last], None)
    assert not BelowTolerance(0.4).is_enough([first, last], None)
    assert not BelowTolerance(0.5).is_enough([last, first, measure(1, numbers(1, 0), one)], None)
    assert not BelowTolerance(1e9).is_enough([measure(0, numbers(math.nan, 0), one)], None)
    assert not BelowTolerance(1e9).is_enough([], None)
    assert BelowTolerance(0.0).is_enough([measure(0, numbers(), numbers())], None)
