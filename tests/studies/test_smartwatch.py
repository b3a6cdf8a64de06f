"""The smartwatch series that `studies.smartwatch` reads from an installed package."""

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pararealize.errors import PararealizeError
from studies import smartwatch as watch
from studies.smartwatch import Smartwatch, load_watch

needs_seglearn = pytest.mark.skipif(
    importlib.util.find_spec("seglearn") is None, reason="seglearn is not installed"
)


def windows(found: Smartwatch) -> Tensor:
    return torch.cat([found.train_windows, found.test_windows])


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six people's series: channels tell the person, the sample and the class."""
    subjects, classes = np.divmod(np.arange(12), 2)

    def series(subject: int, label: int) -> Any:
        samples = np.arange(20 + 3 * subject)
        return np.stack([np.full(len(samples), subject), samples, np.full(len(samples), label)], 1)

    table = {
        "X": [series(s, c) for s, c in zip(subjects, classes, strict=True)],
        "y": classes,
        "subject": subjects,
        "y_labels": ["raise", "row"],
    }
    monkeypatch.setattr(watch, "_find_file", lambda: None)
    monkeypatch.setattr(watch, "_read", lambda file: table)


def people(part: Tensor, found: Smartwatch) -> list[int]:
    """Persons that windows of the numbered series come from, of their order alone."""
    values = windows(found)[..., 0].unique()
    assert len(values) == 6
    return torch.searchsorted(values, part[..., 0].unique()).tolist()


@needs_seglearn
def test_windows_come_from_ten_people() -> None:
    found = load_watch()
    train, test = found.train_windows, found.test_windows
    assert train.shape[1:] == test.shape[1:] == (100, 6)
    assert train.dtype == test.dtype == torch.float32
    assert found.train_labels.dtype == found.test_labels.dtype == torch.int64
    assert train.shape[:1] == found.train_labels.shape
    assert test.shape[:1] == found.test_labels.shape
    assert sorted(found.train_subjects + found.test_subjects) == list(range(1, 11))
    assert found.classes == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    assert found.train_labels.unique().tolist() == found.test_labels.unique().tolist()
    assert "seglearn" in found.source


@needs_seglearn
def test_channels_are_normalised_on_the_training_part() -> None:
    found = load_watch()
    std, mean = torch.std_mean(found.train_windows, (0, 1))
    torch.testing.assert_close(std, torch.ones(6), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean, torch.zeros(6), rtol=0, atol=1e-4)
    assert not torch.allclose(found.test_windows.mean((0, 1)), torch.zeros(6), atol=1e-3)


@needs_seglearn
def test_no_sample_lies_in_both_parts() -> None:
    found = load_watch(stride=100)
    everything = windows(found).flatten(1)
    assert everything.isfinite().all()
    assert len(everything.unique(dim=0)) == len(everything)


@needs_seglearn
def test_seglearn_is_not_imported() -> None:
    already = "seglearn" in sys.modules
    load_watch(947, 947)
    assert ("seglearn" in sys.modules) == already


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize("seed", range(4))
def test_all_series_of_a_person_lie_in_one_part(seed: int) -> None:
    found = load_watch(5, 2, test_fraction=1 / 3, seed=seed)
    assert people(found.train_windows, found) == list(found.train_subjects)
    assert people(found.test_windows, found) == list(found.test_subjects)
    assert len(found.test_subjects) == 2
    assert set(found.train_subjects).isdisjoint(found.test_subjects)


@pytest.mark.usefixtures("numbered")
def test_windows_are_successive_samples_at_strides() -> None:
    found = load_watch(5, 4)
    total = sum(2 * ((20 + 3 * subject - 5) // 4 + 1) for subject in range(6))
    assert windows(found).shape == (total, 5, 3)
    unit = found.train_windows[0, 1, 1] - found.train_windows[0, 0, 1]
    samples = (found.train_windows[..., 1] - found.train_windows[0, 0, 1]) / unit
    torch.testing.assert_close(samples.diff(dim=1), torch.ones(len(samples), 4))
    starts = samples[:, 0]
    torch.testing.assert_close(starts[1:4], torch.tensor([4.0, 8.0, 12.0]))


@pytest.mark.usefixtures("numbered")
def test_labels_follow_their_windows() -> None:
    found = load_watch(5, 4)
    for part, labels in (
        (found.train_windows, found.train_labels),
        (found.test_windows, found.test_labels),
    ):
        assert ((part[..., 2] > 0) == labels[:, None].bool()).all()


@pytest.mark.usefixtures("numbered")
def test_the_seed_decides_who_tests() -> None:
    first, again = load_watch(5, 4, seed=1), load_watch(5, 4, seed=1)
    assert torch.equal(first.train_windows, again.train_windows)
    assert torch.equal(first.test_labels, again.test_labels)
    assert len({load_watch(5, 4, seed=seed).test_subjects for seed in range(8)}) > 1


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize(("length", "stride"), [(0, 1), (21, 1), (5, 0)])
def test_impossible_windows_are_refused(length: int, stride: int) -> None:
    with pytest.raises(PararealizeError, match=f"1 to 20 .*length={length}, stride={stride}"):
        load_watch(length, stride)


@pytest.mark.usefixtures("numbered")
def test_series_shorter_than_a_window_can_be_left_out() -> None:
    found = load_watch(26, 26, test_fraction=1 / 3, skip_shorter=True)  # 20, 23, … 35 samples
    assert found.train_windows.shape[0] + found.test_windows.shape[0] == 8
    assert found.source.startswith("8 series")


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize(("length", "said"), [(36, "1 to 35 samples"), (35, "has 35 samples")])
def test_windows_that_leave_nothing_are_refused(length: int, said: str) -> None:
    with pytest.raises(PararealizeError, match=said):
        load_watch(length, skip_shorter=True)


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize("fraction", [0.0, 0.01, 1.0])
def test_parts_have_people(fraction: float) -> None:
    with pytest.raises(PararealizeError, match=f"test_fraction={fraction} of 6 people"):
        load_watch(5, test_fraction=fraction)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PararealizeError, match="pip install seglearn"):
        load_watch()
