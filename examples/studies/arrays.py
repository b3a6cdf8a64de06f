"""Arrays: readers of sets whose files are arrays (idx, pickles, MATLAB files, tables of numbers).

Every reader returns inputs and labels to train with, and to test with. A file that is not there is
a ``FileNotFoundError`` whose last argument is its name.
"""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pararealize.errors import DataError

Part = tuple[Tensor, Tensor]

#: Bytes of numbers in idx files, by the third byte of the file.
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
#: Numbers for a label of SVHN's that means the digit 0.
SVHN_ZERO = 10
#: Signals of UCI-HAR, three axes each.
HAR_SIGNALS = ("body_acc", "body_gyro", "total_acc")
#: Share of every class of Indian Pines that is kept for testing.
PINES_TEST = 0.2


def find(folder: Path, *names: str) -> Path:
    """The first file below the folder that has one of these names.

    Raises:
        FileNotFoundError: there is none.

    """
    for name in names:
        for path in sorted(folder.rglob(name)):
            if path.is_file():
                return path
    raise FileNotFoundError(names[0])


def read_idx(folder: Path, _limit: int | None) -> tuple[Part, Part]:
    """Images ``[count, 1, 28, 28]`` between 0 and 1 of MNIST and Fashion-MNIST."""

    def part(which: str) -> Part:
        images = _idx(find(folder, f"{which}-images-idx3-ubyte", f"{which}-images.idx3-ubyte"))
        labels = _idx(find(folder, f"{which}-labels-idx1-ubyte", f"{which}-labels.idx1-ubyte"))
        return images[:, None].float() / 255, labels

    return part("train"), part("t10k")


def _idx(path: Path) -> Tensor:
    """A file of two zeros, a byte for the kind, one for the axes, the sizes, and the numbers."""
    data = path.read_bytes()
    kind, axes = (data[2], data[3]) if len(data) > 4 else (0, 0)
    start = 4 + 4 * axes
    shape = np.frombuffer(data[4:start], ">i4").tolist() if len(data) >= start else []
    if kind not in IDX_TYPES or len(shape) != axes:
        raise DataError(f"{path} is no idx file: it may still be packed (gunzip it) or damaged.")
    values = np.frombuffer(data[start:], IDX_TYPES[kind])
    if values.size != int(np.prod(shape)):
        raise DataError(f"{path} ends early: {values.size} numbers for the shape {shape}.")
    return torch.from_numpy(values.reshape(shape).astype(values.dtype.newbyteorder("=")))


def read_cifar10(folder: Path, _limit: int | None) -> tuple[Part, Part]:
    """Images ``[count, 3, 32, 32]`` between 0 and 1 of ten classes."""
    batches = [_cifar(find(folder, f"data_batch_{i}"), "labels") for i in range(1, 6)]
    images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    return (images, labels), _cifar(find(folder, "test_batch"), "labels")


def read_cifar100(folder: Path, _limit: int | None) -> tuple[Part, Part]:
    """Images ``[count, 3, 32, 32]`` between 0 and 1 of a hundred classes."""
    return _cifar(find(folder, "train"), "fine_labels"), _cifar(find(folder, "test"), "fine_labels")


class _Numbers(pickle.Unpickler):
    """Reads pickles of numpy arrays, lists and dictionaries, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in {"_reconstruct", "ndarray", "dtype"}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no array")


def _cifar(path: Path, key: str) -> Part:
    try:
        with path.open("rb") as file:
            table = _Numbers(file, encoding="latin1").load()
        pixels, labels = np.asarray(table["data"], np.uint8), table[key]
        images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32)).float() / 255
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no batch of CIFAR images ({error}): unpack it again."
        ) from error
    return images, torch.tensor(labels)


def read_svhn(folder: Path, _limit: int | None) -> tuple[Part, Part]:
    """Images ``[count, 3, 32, 32]`` between 0 and 1 of house numbers."""

    def part(which: str) -> Part:
        table = _matlab(find(folder, f"{which}_32x32.mat"), "X", "y")
        images = torch.from_numpy(np.ascontiguousarray(table["X"].transpose(3, 2, 0, 1)))
        labels = torch.from_numpy(table["y"].astype(np.int64).ravel())
        return images.float() / 255, labels.remainder(SVHN_ZERO)

    return part("train"), part("test")


def read_har(folder: Path, _limit: int | None) -> tuple[Part, Part]:
    """Series ``[count, 128, 9]`` of people's accelerations, six activities."""

    def part(which: str) -> Part:
        names = [f"{signal}_{axis}_{which}.txt" for signal in HAR_SIGNALS for axis in "xyz"]
        signals = [_table(find(folder, name)) for name in names]
        labels = _table(find(folder, f"y_{which}.txt")).long().ravel() - 1
        return torch.stack(signals, 2), labels

    return part("train"), part("test")


def read_indian_pines(folder: Path, _limit: int | None) -> tuple[Part, Part]:
    """Spectra ``[count, bands]`` of a field's pixels, 16 classes; a fifth of each to test with."""
    bands = _matlab(find(folder, "Indian_pines_corrected.mat"), "indian_pines_corrected")
    truth = _matlab(find(folder, "Indian_pines_gt.mat"), "indian_pines_gt")
    spectra = torch.from_numpy(bands["indian_pines_corrected"].astype(np.float32)).flatten(0, 1)
    classes = torch.from_numpy(truth["indian_pines_gt"].astype(np.int64)).flatten()
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for label in classes.unique().tolist():
        if label:  # 0 is what nobody looked at
            own = (classes == label).nonzero().flatten()
            own = own[torch.randperm(len(own), generator=generator)]
            count = round(PINES_TEST * len(own))
            test.append(own[:count])
            train.append(own[count:])
    parts = [torch.cat(part) for part in (train, test)]
    first, second = ((spectra[part], classes[part] - 1) for part in parts)
    return first, second


def _table(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.loadtxt(path, dtype=np.float32, ndmin=2))
    except ValueError as error:
        raise DataError(f"{path} is no table of numbers ({error}): unpack it again.") from error


def _matlab(path: Path, *keys: str) -> dict[str, Any]:
    # scikit-learn brings it, and few sets need it
    from scipy.io import loadmat  # noqa: PLC0415
    from scipy.io.matlab import MatReadError  # noqa: PLC0415

    try:
        table: dict[str, Any] = loadmat(path)
    except (MatReadError, ValueError, OSError, TypeError, zlib.error) as error:
        raise DataError(f"{path} is no MATLAB file ({error}): load it again.") from error
    if missing := [key for key in keys if key not in table]:
        raise DataError(f"{path} has no array {missing[0]!r}: it is another file of that name.")
    return table
