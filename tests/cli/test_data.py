"""Data by name: arrays, folders of images, factories."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from pararealize.cli.arrays import Array
from pararealize.cli.data import Reading, labelled, open_data
from pararealize.errors import CalibrationError, DataError, ModelSpecError
from pararealize.ir.chain import TensorSpec

FLAT = {"x": TensorSpec((2, 5), torch.float32)}
SMALL = {"x": TensorSpec((2, 3, 4, 6), torch.float32)}


def read(text: object, specs: dict[str, TensorSpec], **options: object) -> list[Tensor]:
    data = open_data(str(text), Reading(**{"batch": 4, **options}))  # type: ignore[arg-type]
    return [inputs["x"] for inputs, _ in labelled(data, specs, {})]


def test_an_array_is_mapped_and_every_sample_read_once(tmp_path: Path) -> None:
    values = np.arange(50, dtype=">f8").reshape(10, 5)
    np.save(tmp_path / "x.npy", values)
    data = open_data(str(tmp_path / "x.npy"), Reading(4))
    assert isinstance(data, Array)
    assert isinstance(data.values, np.memmap)
    assert data.samples == 10
    found = [inputs["x"] for inputs, _ in labelled(data, FLAT, {})]
    assert [len(part) for part in found] == [4, 4, 2]
    assert {part.dtype for part in found} == {torch.float32}
    rows = torch.cat(found)
    assert not torch.equal(rows[:, 0], rows[:, 0].sort().values)  # sorted files are mixed
    assert torch.equal(rows[rows[:, 0].argsort()], torch.arange(50.0).reshape(10, 5))
    again = torch.cat([inputs["x"] for inputs, _ in labelled(data, FLAT, {})])
    assert torch.equal(rows, again)


def test_a_tensor_of_several_has_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4, 5), "b": torch.zeros(8, 5)}, path)
    with pytest.raises(DataError, match=r"holds 2 tensors; its tensors are a, b: name one, .*:a"):
        open_data(str(path), Reading())
    with pytest.raises(DataError, match="no tensor 'c'"):
        open_data(f"{path}:c", Reading())
    assert sum(len(part) for part in read(f"{path}:b", FLAT)) == 8
    save_file({"a": torch.ones(4, 5)}, path)
    assert torch.equal(torch.cat(read(path, FLAT)), torch.ones(4, 5))


def test_damaged_files_and_other_numbers(tmp_path: Path) -> None:
    for name in ("x.npy", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match="cannot be read as an array"):
            open_data(str(tmp_path / name), Reading())
    np.save(tmp_path / "x.npy", np.zeros((4, 5), dtype=np.uint8))
    with pytest.raises(DataError, match=r"holds torch.uint8, and the network takes torch.float32"):
        read(tmp_path / "x.npy", FLAT)
    assert read(tmp_path / "x.npy", {"x": TensorSpec((2, 5), torch.int64)})[0].dtype == torch.int64
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    with pytest.raises(DataError, match="no numbers that torch knows"):
        read(tmp_path / "x.npy", FLAT)
    two = {"x": FLAT["x"], "y": FLAT["x"]}
    np.save(tmp_path / "x.npy", np.zeros((4, 5)))
    with pytest.raises(DataError, match="gives one input, and the network takes x, y"):
        read(tmp_path / "x.npy", two)


def test_an_example_has_the_precision_of_the_model(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 5)))
    (example,) = open_data(str(tmp_path / "x.npy"), Reading()).example(nn.Linear(5, 1)) or ()
    assert (example.shape, example.dtype) == ((2, 5), torch.float32)
    np.save(tmp_path / "x.npy", np.zeros((4, 5), dtype=np.int32))
    (example,) = open_data(str(tmp_path / "x.npy"), Reading()).example(nn.Linear(5, 1)) or ()
    assert example.dtype == torch.int64


def paint(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size, color).save(path)


def test_images_are_cropped_scaled_and_normalised(tmp_path: Path) -> None:
    image = Image.new("RGB", (24, 8), (0, 0, 0))  # twice as wide as what is wanted
    image.paste((255, 51, 0), (4, 0, 20, 8))  # and somewhat more than what is left
    image.save(tmp_path / "a.PNG")
    (found,) = read(tmp_path, SMALL, mean=(0.5,), std=(0.5, 1.0, 1.0))
    wanted = torch.tensor([1.0, -0.3, -0.5]).reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
    torch.testing.assert_close(found, wanted)
    gray = {"x": TensorSpec((2, 1, 4, 6), torch.float32)}
    assert read(tmp_path, gray)[0].shape == (1, 1, 4, 6)


def test_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    for i in range(7):
        paint(tmp_path / "cats" / f"{i}.jpg", (0, 0, 0))
    for i in range(5):
        paint(tmp_path / "dogs" / "more" / f"{i}.png", (255, 255, 255))
    data = open_data(str(tmp_path), Reading(4))
    assert data.samples == 12
    rows = list(labelled(data, SMALL, {}))
    for inputs, labels in rows:
        assert labels is not None
        assert torch.equal(inputs["x"].mean((1, 2, 3)).round().long(), labels)
    assert any(labels is not None and 0 < labels.sum() < 4 for _, labels in rows)  # mixed
    paint(tmp_path / "above.png", (0, 0, 0))
    with pytest.raises(DataError, match="holds images, and so do folders in it"):
        open_data(str(tmp_path), Reading())


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"holds no images \(.png"):
        open_data(str(tmp_path), Reading())
    paint(tmp_path / "a.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"holds images, and the network takes \[2, 5\]"):
        read(tmp_path, FLAT)
    with pytest.raises(DataError, match=r"--std 1.0,0.0,1.0: .* above 0"):
        read(tmp_path, SMALL, std=(1.0, 0.0, 1.0))
    with pytest.raises(DataError, match=r"--mean 1.0,2.0: expected one number or 3"):
        read(tmp_path, SMALL, mean=(1.0, 2.0))
    whole = (tmp_path / "a.png").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2]):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a.png cannot be read as an image"):
            read(tmp_path, SMALL)
    Image.new("I;16", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="not 8 bits deep"):
        read(tmp_path, SMALL)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="pip install pillow"):
        read(tmp_path, SMALL)


FACTORIES = """
import torch
def one(): return torch.ones(8, 5)
def none(): return []
def wrong(): return 3
def pairs(): return [(torch.ones(3, 5), torch.tensor([0, 1, 2])), (torch.zeros(2, 5), None)]
def names(): return ({"x": torch.ones(3, 5), "y": 1} for _ in range(2))
"""


def test_factories(tmp_path: Path) -> None:
    file = tmp_path / "made.py"
    file.write_text(FACTORIES, encoding="utf-8")
    assert [len(part) for part in read(f"{file}:one", FLAT)] == [4, 4]
    assert [len(part) for part in read(f"{file}:names", FLAT)] == [3, 3]
    pairs = list(labelled(open_data(f"{file}:pairs", Reading()), FLAT, {}))
    assert [None if labels is None else labels.tolist() for _, labels in pairs] == [[0, 1, 2], None]
    with pytest.raises(CalibrationError, match="no data"):
        read(f"{file}:none", FLAT)
    with pytest.raises(DataError, match="gave a int: return an iterable"):
        read(f"{file}:wrong", FLAT)
    with pytest.raises(ModelSpecError, match=r"has no 'gone': write a folder of PNG"):
        read(f"{file}:gone", FLAT)
    with pytest.raises(DataError, match="--mean and --std are for folders of images"):
        read(f"{file}:one", FLAT, mean=(0.5,))
