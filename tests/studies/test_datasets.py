"""Sets that papers train on, read from small files of the kinds that their publishers made."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from set_files import WRITERS, imagenet, numbers, picture
from torch import Tensor

from pararealize.errors import DataError
from studies.datasets import KINDS, read
from studies.labelled import Examples

pytest.importorskip("PIL", reason="pillow is not installed")


def examples(name: str, folder: Path, limit: int | None = None) -> Examples:
    WRITERS[name][0](folder)
    return read(f"{name}={folder}", limit=limit)


def test_every_kind_is_tried() -> None:
    assert set(WRITERS) == set(KINDS)


@pytest.mark.whole
@pytest.mark.parametrize("name", WRITERS)
def test_a_set_is_read(name: str, tmp_path: Path) -> None:
    _, shape, count = WRITERS[name]
    found = examples(name, tmp_path)
    for inputs, labels in (
        (found.train_inputs, found.train_labels),
        (found.test_inputs, found.test_labels),
    ):
        assert inputs.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert inputs.shape[1:] == shape
        assert len(inputs) == len(labels)
        assert int(labels.min()) >= 0
        assert bool(inputs.isfinite().all())
    assert len(found.train_labels) == count
    assert_standard(found.train_inputs)


def assert_standard(inputs: Tensor) -> None:
    """Every channel has mean 0 and deviation 1, or is constant."""
    channel = {2: 1, 3: 2, 4: 1, 5: 2}[inputs.dim()]
    for values in inputs.double().unbind(channel):
        deviation, mean = torch.std_mean(values)
        assert abs(float(mean)) < 1e-5
        assert float(deviation) == pytest.approx(1, abs=1e-5) or not float(deviation)


def test_labels_and_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    found = examples("mnist", tmp_path)
    assert found.train_labels.tolist() == list(range(6))
    pixels = torch.from_numpy(numbers(6, 28, 28)).double() / 255
    wanted = (pixels - pixels.mean()) / pixels.std()
    assert torch.allclose(found.train_inputs[:, 0].double(), wanted, atol=1e-5)


def test_the_digit_zero_of_house_numbers_is_ten_in_their_files(tmp_path: Path) -> None:
    labels = examples("svhn", tmp_path).test_labels
    assert labels.tolist() == [3, 6, 0]


def test_background_is_left_out_and_every_class_is_tested(tmp_path: Path) -> None:
    found = examples("indian-pines", tmp_path)
    assert set(found.train_labels.tolist()) == set(found.test_labels.tolist()) == {0, 1}
    assert len(found.test_labels) == 14  # a fifth of 33 pixels of both


def test_short_videos_end_in_black(tmp_path: Path) -> None:
    inputs = examples("hmdb51", tmp_path).train_inputs
    red = inputs[:, :, 0, 0, 0]
    assert all(len(set(video[6:].tolist())) == 1 for video in red)
    assert all(len(set(video[:2].tolist())) == 2 for video in red)


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "hmdb51"])
def test_as_many_are_taken_as_asked_for(name: str, tmp_path: Path) -> None:
    found = examples(name, tmp_path, limit=2)
    assert len(found.train_labels) == len(found.test_labels) == 2
    again = read(f"{name}={tmp_path}", limit=2)
    assert torch.equal(found.train_inputs, again.train_inputs)


@pytest.mark.parametrize("name", [*WRITERS])
def test_an_empty_folder_says_what_is_missing_and_where_it_is_had(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(f"{name}={tmp_path}")
    said = str(caught.value)
    assert f"{tmp_path} holds no " in said
    assert name in said
    assert KINDS[name].source in said


@pytest.mark.parametrize("text", ["minst=/tmp", "mnist=/no/such/folder"])
def test_what_is_no_set_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"no NAME=FOLDER|is no folder"):
        read(text)


@pytest.mark.parametrize(
    ("name", "file", "damaged", "said"),
    [
        ("mnist", "train-images-idx3-ubyte", b"\x1f\x8b packed", "gunzip"),
        ("mnist", "t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x09ab", "ends early"),
        ("cifar100", "train", pickle.dumps(Path()), "no batch of CIFAR"),
        ("cifar100", "test", b"", "no batch of CIFAR"),
        ("svhn", "test_32x32.mat", b"no", "no MATLAB file"),
        ("uci-har", "UCI HAR Dataset/test/y_test.txt", b"one two", "no table of numbers"),
        ("imagenet", "val/n01/0.png", b"no", "no image"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, file: str, damaged: bytes, said: str, tmp_path: Path
) -> None:
    WRITERS[name][0](tmp_path)
    (tmp_path / file).write_bytes(damaged)
    with pytest.raises(DataError, match=said) as caught:
        read(f"{name}={tmp_path}")
    assert Path(file).name in str(caught.value)


def test_classes_to_train_and_to_test_with_are_the_same(tmp_path: Path) -> None:
    imagenet(tmp_path)
    picture(tmp_path / "val" / "n03" / "0.png", (64, 64), 0)
    with pytest.raises(DataError, match="'n03' is in train or val alone"):
        read(f"imagenet={tmp_path}")
