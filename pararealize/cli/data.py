"""Data: what a command is told to read, as batches of a network's inputs, read as they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pararealize.calibration.data import batches
from pararealize.cli.arrays import ARRAYS, Array, open_array
from pararealize.cli.images import Images, find_images
from pararealize.cli.specs import load_object
from pararealize.errors import DataError
from pararealize.ir.chain import Expectation, TensorSpec

FORMS = (
    "a folder of PNG or JPEG images (flat, or one folder per class), FILE.npy, FILE.safetensors "
    "(FILE.safetensors:NAME where it holds several tensors), module:factory or "
    "path/to/file.py:factory giving batches"
)


@dataclass(frozen=True)
class Reading:
    """How data is read: samples of a batch, and for images what is subtracted and divided by."""

    batch: int = 100
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class Data(Protocol):
    """Data that can be read any number of times."""

    @property
    def samples(self) -> int | None:
        """How many samples there are, where that is known before they are read."""

    def example(self, model: nn.Module) -> tuple[Tensor, ...] | None:
        """A few inputs of the shapes that the data has; ``None`` where it takes any shape."""

    def batches(self, specs: Mapping[str, TensorSpec]) -> Iterator[Any]:
        """Tensors, tuples of inputs that labels may follow, or dictionaries of inputs."""


def open_data(text: str, reading: Reading) -> Data:
    """The data that ``text`` names, in one of the :data:`FORMS`.

    Raises:
        DataError: there is none, it cannot be read, or it is of an unknown form.
        ModelSpecError: a factory does not exist, or cannot be called.
        MethodError: an option does not fit.

    """
    path, (place, _, name) = Path(text), text.rpartition(":")
    if path.is_dir():
        return Images(find_images(path), reading.batch, reading.mean, reading.std)
    if reading.mean or reading.std:
        raise DataError(f"--mean and --std are for folders of images, and {text} is none.")
    if path.suffix in ARRAYS:
        return Array(text, open_array(path), reading.batch)
    if Path(place).suffix == ".safetensors":
        return Array(text, open_array(Path(place), name), reading.batch)
    if place and name and not path.exists():
        return _made(text, reading.batch)
    raise DataError(f"{text}: no such folder or file, or of another kind; write {FORMS}.")


def _made(text: str, batch: int) -> Data:
    """What a factory gives."""
    found = load_object(text, "data", FORMS)
    if isinstance(found, (Tensor, np.ndarray)):
        return Array(text, found, batch)
    if isinstance(found, Dataset):
        found = DataLoader(found, batch)
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes, Mapping)):
        raise DataError(
            f"{text} gave a {type(found).__name__}: return an iterable of batches (tensors, tuples "
            "of inputs, or dictionaries), a Dataset, or one tensor [samples, ...]."
        )
    return Batches(text, found)


@final
@dataclass(frozen=True)
class Batches:
    """Batches as a factory made them; a generator can be gone through once."""

    source: str
    found: Iterable[Any]

    @property
    def samples(self) -> int | None:
        """Not known before they are read."""
        return None

    def example(self, _model: nn.Module) -> tuple[Tensor, ...] | None:
        """Not known: reading a batch would use it up, and labels may follow the inputs."""
        return None

    def batches(self, _specs: Mapping[str, TensorSpec]) -> Iterator[Any]:
        """The batches as the factory made them."""
        return iter(self.found)


def labelled(
    data: Data, specs: Mapping[str, TensorSpec], expectations: Mapping[str, Expectation]
) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
    """The inputs of every batch by name, checked, and its labels where it has some.

    Raises:
        CalibrationError: no data, another shape or kind, NaN.

    """
    last: list[Tensor | None] = [None]

    def noting() -> Iterator[Any]:
        for given in data.batches(specs):
            last[0] = _labels(given, len(specs))
            yield given

    for inputs in batches(noting(), specs, expectations, 1):
        yield inputs, last[0]


def _labels(given: Any, inputs: int) -> Tensor | None:
    """Classes that follow the inputs."""
    if not isinstance(given, Sequence) or len(given) != inputs + 1:
        return None
    found = given[inputs]
    whole = isinstance(found, Tensor) and not found.is_floating_point() and found.dim() > 0
    return found if whole else None
