"""Points labelled by the level sets of `peaks`."""

import pytest
import torch

from studies.peaks import levels, load_peaks, peaks


def test_values_that_matlab_gives() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-3.0, -3.0], [0.0, 1.5814]])
    wanted = torch.tensor([0.9810, 2.4338, 6.6713e-05, 8.1062])
    torch.testing.assert_close(peaks(points), wanted, rtol=1e-4, atol=1e-4)


def test_levels_have_equal_heights() -> None:
    points = 6 * torch.rand(20000, 2) - 3
    values, classes = peaks(points), levels(points)
    height = (8.1062 + 6.5511) / 5
    for label in range(5):
        low, high = -6.5511 + label * height, -6.5511 + (label + 1) * height
        found = values[classes == label]
        assert len(found) > 0
        assert low - 0.01 <= found.min() <= found.max() <= high + 0.01


@pytest.mark.parametrize("count", [5, 100, 5003])
def test_classes_are_balanced_and_shuffled(count: int) -> None:
    examples = load_peaks(count, 7)
    sizes = examples.train_labels.bincount(minlength=5)
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1
    assert examples.test_labels.bincount(minlength=5).tolist() == [2, 2, 1, 1, 1]
    if count > 5:
        assert len(examples.train_labels[:50].unique()) == 5


def test_points_fill_the_square_and_have_their_labels() -> None:
    examples = load_peaks()
    assert examples.train_inputs.shape == (5000, 2)
    assert examples.test_inputs.shape == (2000, 2)
    assert examples.train_inputs.dtype == torch.float32
    assert examples.train_labels.dtype == examples.test_labels.dtype == torch.int64
    assert examples.train_inputs.abs().max() <= 3
    assert examples.train_inputs.abs().amax(0).min() > 2.9
    assert torch.equal(levels(examples.train_inputs), examples.train_labels)
    assert torch.equal(levels(examples.test_inputs), examples.test_labels)


def test_training_and_test_points_are_disjoint() -> None:
    examples = load_peaks()
    assert torch.cdist(examples.test_inputs, examples.train_inputs).min() > 0


def test_the_seed_decides_the_points() -> None:
    before = torch.get_rng_state()
    first, again, other = (load_peaks(50, 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.test_labels, again.test_labels)
    assert not torch.equal(first.train_inputs, other.train_inputs)
    assert torch.equal(torch.get_rng_state(), before)
