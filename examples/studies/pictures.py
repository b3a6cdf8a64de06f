"""Pictures: folders of images, one for each class, as arrays of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pararealize.cli.images import Found, find_images
from pararealize.errors import DataError

Part = tuple[Tensor, Tensor]

#: Pixels of a side after images are scaled and cut to squares.
SIDE = 64


def read_folders(folder: Path, limit: int | None) -> tuple[Part, Part]:
    """Images ``[count, 3, SIDE, SIDE]`` between 0 and 1 of ``train/CLASS`` and ``val/CLASS``.

    Only as many as ``limit`` are opened, drawn alike in every run.

    Raises:
        DataError: a class to test with is none to train with, or an image cannot be read.
        FileNotFoundError: there is no such folder.

    """
    train, test = (_found(folder, which) for which in ("train", "val"))
    names = sorted(path.name for path in train.folder.iterdir() if path.is_dir())
    own = sorted(path.name for path in test.folder.iterdir() if path.is_dir())
    if names != own:
        odd = sorted(set(names) ^ set(own))
        raise DataError(f"{folder}: the class {odd[0]!r} is in train or val alone.")
    return _part(train, limit), _part(test, limit)


def _found(folder: Path, which: str) -> Found:
    if not (folder / which).is_dir():
        raise FileNotFoundError(f"folder {which}")
    found = find_images(folder / which)
    if not found.classes:
        raise DataError(f"{folder / which} holds images, and no folder for each class.")
    return found


def _part(found: Found, limit: int | None) -> Part:
    order = torch.randperm(len(found.files), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = order[: limit or len(order)]
    images = torch.stack([picture(found.files[i], SIDE) for i in chosen])
    return images, torch.tensor([found.classes[i] for i in chosen])


def picture(path: Path, side: int) -> Tensor:
    """An image ``[3, side, side]`` between 0 and 1: its shorter side is scaled, its middle cut out.

    Raises:
        DataError: the file is no image.

    """
    from PIL import Image, ImageOps  # noqa: PLC0415  few sets need it

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (side, side))
    except OSError as error:
        raise DataError(f"{path} is no image that can be read ({error}).") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
