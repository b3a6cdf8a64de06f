"""Images: a folder of them as batches of the size that a network takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from pararealize.cli.arrays import only
from pararealize.errors import DataError
from pararealize.ir.chain import TensorSpec

#: How files of images end, in any case.
SUFFIXES = (".png", ".jpg", ".jpeg")
#: What Pillow calls pixels of so many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Found:
    """Image files, and for each the number of its class where folders stand for classes."""

    folder: Path
    files: tuple[Path, ...]
    classes: tuple[int, ...] = ()


def find_images(folder: Path) -> Found:
    """The images in a folder, or in folders below it, one per class in alphabetical order.

    Raises:
        DataError: there is none, or they lie in both.

    """
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    files = _images(folder.iterdir())
    parts = [_images(path.rglob("*")) for path in below]
    classes = tuple(i for i, part in enumerate(parts) for _ in part)
    if files and classes:
        raise DataError(
            f"{folder} holds images, and so do folders in it: name a folder of images, or one that "
            "has a folder for each class and no other images."
        )
    if not files and not classes:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}), nor do folders in it.")
    return Found(folder, tuple(files or (path for part in parts for path in part)), classes)


def _images(paths: Any) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


@final
@dataclass(frozen=True)
class Images:
    """Images scaled to [0, 1], then less ``mean`` and over ``std``, in an order drawn once.

    Each is resized until it covers the network's height and width, and cropped to its centre.
    """

    found: Found
    batch: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.found.files)

    def example(self, _model: nn.Module) -> tuple[Tensor, ...] | None:
        """Any size will do."""
        return None

    def batches(self, specs: Mapping[str, TensorSpec]) -> Iterator[tuple[Tensor, ...]]:
        """Batches ``[batch, channels, height, width]``, and the classes where they are known.

        Raises:
            DataError: the network takes no images, or a file is none.

        """
        spec = only(specs, str(self.found.folder))
        channels = spec.shape[1] if len(spec.shape) == 4 else 0
        if channels not in MODES or not spec.dtype.is_floating_point:
            raise DataError(
                f"{self.found.folder} holds images, and the network takes {spec}: give its inputs "
                "as FILE.npy, FILE.safetensors or module:factory."
            )
        mean, std = self._channels("mean", channels, 0.0), self._channels("std", channels, 1.0)
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(0))
        for chosen in order.split(self.batch):
            images = torch.stack([_read(self.found.files[i], spec.shape) for i in chosen.tolist()])
            inputs = ((images - mean) / std).to(spec.dtype)
            labels = [self.found.classes[i] for i in chosen.tolist() if self.found.classes]
            yield (inputs, torch.tensor(labels)) if labels else (inputs,)

    def _channels(self, name: str, channels: int, default: float) -> Tensor:
        """A number for every channel, ``[channels, 1, 1]``."""
        given = getattr(self, name) or (default,)
        if len(given) not in {1, channels} or (name == "std" and not all(v > 0 for v in given)):
            raise DataError(
                f"--{name} {','.join(map(str, given))}: expected one number or {channels}, one for "
                "every channel" + (", above 0." if name == "std" else ".")
            )
        return torch.tensor(given).expand(channels).reshape(-1, 1, 1)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An image ``[channels, height, width]`` in [0, 1].

    Raises:
        DataError: Pillow is not installed, or cannot read the file.

    """
    image, operations = _pillow()
    _, channels, height, width = shape
    try:
        with image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"{file.mode} pixels, which are not 8 bits deep")
            fitted = operations.fit(
                file.convert(MODES[channels]), (width, height), image.Resampling.BILINEAR
            )
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}): remove or convert it."
        ) from error
    pixels = np.array(fitted, dtype=np.float32).reshape(height, width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415  only folders of images need it
    except ImportError as error:
        raise DataError(
            "images are read by Pillow, which is not installed: pip install pillow."
        ) from error
    return Image, ImageOps
