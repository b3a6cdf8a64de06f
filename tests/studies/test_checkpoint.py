"""Trained weights in a folder, and what is said when they are not what they were."""

from pathlib import Path

import pytest
import torch

from pararealize.errors import StorageError
from studies.checkpoint import Checkpoint, read, write

KEPT = Checkpoint({"weight": torch.arange(6.0).reshape(2, 3).T}, "two epochs", 1.5, 0.25, 0.75)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "cache" / "net-0", KEPT)
    return tmp_path / "cache" / "net-0"


def test_what_is_written_is_read(path: Path) -> None:
    found = read(path, "two epochs")
    assert found is not None
    assert torch.equal(found.weights["weight"], KEPT.weights["weight"])
    assert (found.seconds, found.loss, found.accuracy) == (1.5, 0.25, 0.75)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "net-0.json",
        "net-0.safetensors",
    ]


def test_nothing_is_there_before_the_figures_are(path: Path) -> None:
    assert read(path.with_name("net-1"), "two epochs") is None
    path.with_name("net-0.json").unlink()
    assert read(path, "two epochs") is None


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("safetensors", None),
        ("safetensors", b""),
        ("json", b"{"),
        ("json", b"[]"),
        ("json", b"{}"),
        ("json", b"\xff"),
    ],
)
def test_damaged_files_are_named(path: Path, suffix: str, content: bytes | None) -> None:
    file = path.with_name(f"net-0.{suffix}")
    if content is None:
        flip(file)
    else:
        file.write_bytes(content)
    with pytest.raises(StorageError, match=r"net-0 cannot be used .*: remove .*net-0\.json"):
        read(path, "two epochs")


def test_missing_weights_are_named(path: Path) -> None:
    path.with_name("net-0.safetensors").unlink()
    with pytest.raises(StorageError, match=r"net-0\.safetensors"):
        read(path, "two epochs")


def test_another_recipe_is_not_mistaken(path: Path) -> None:
    with pytest.raises(StorageError, match="trained as two epochs, not as three epochs"):
        read(path, "three epochs")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another cache folder"):
        write(tmp_path / "file" / "net-0", KEPT)
