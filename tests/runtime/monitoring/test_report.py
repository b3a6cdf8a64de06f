"""Reports of jumps, and the norm they are measured by."""

import math

import pytest
import torch

from pararealize.runtime.monitoring.report import Jump, Report, norm


def test_norms_are_over_all_floating_point_leaves() -> None:
    assert norm(torch.tensor([3.0, 4.0])) == 5.0
    assert norm((torch.tensor([3.0]), {"a": torch.tensor([4.0])})) == 5.0
    assert norm((torch.tensor([3.0]), torch.tensor([100]), None)) == 3.0
    assert norm(()) == 0.0


def test_norms_are_taken_in_double_precision() -> None:
    assert norm(torch.full((4,), 1e30)) == pytest.approx(2e30)
    assert math.isnan(norm(torch.tensor([float("nan")])))
    assert not torch.is_tensor(norm(torch.ones(3, requires_grad=True)))


def test_the_largest_jump_is_of_the_last_sweep() -> None:
    report = Report((Jump(0, 1, 5.0, 0.5), Jump(0, 2, 9.0, 0.9), Jump(1, 2, 2.0, 0.2)))
    assert report.largest == 0.2
    assert Report(()).largest == 0.0


def test_text_is_a_table() -> None:
    lines = str(Report((Jump(0, 1, 5.0, 0.5), Jump(1, 2, 2e-9, 2e-10)))).splitlines()
    assert lines[0].split() == ["sweep", "interface", "jump", "relative"]
    assert lines[2].split() == ["1", "2", "2.000e-09", "2.000e-10"]
    assert len({len(line) for line in lines}) == 1
    assert "no jumps" in str(Report(()))
