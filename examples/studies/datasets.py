"""Datasets: labelled examples from a folder that the user names, of the sets that papers train on.

Nothing is downloaded. Every set is found in the folder itself or anywhere below it, by the names
that its publishers gave the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from pararealize.errors import DataError
from studies import arrays, frames, pictures
from studies.labelled import Examples

Part = tuple[Tensor, Tensor]


@final
@dataclass(frozen=True)
class Kind:
    """How a set is read: ``read(folder, limit)`` returns inputs and labels to train and to test.

    ``source`` is where it is had from.
    """

    read: Callable[[Path, int | None], tuple[Part, Part]]
    source: str


KINDS = {
    "mnist": Kind(arrays.read_idx, "yann.lecun.com/exdb/mnist, four files *-ubyte"),
    "fashion-mnist": Kind(
        arrays.read_idx, "github.com/zalandoresearch/fashion-mnist, four files *-ubyte"
    ),
    "cifar10": Kind(
        arrays.read_cifar10, "cs.toronto.edu/~kriz/cifar.html, the version for Python, unpacked"
    ),
    "cifar100": Kind(
        arrays.read_cifar100, "cs.toronto.edu/~kriz/cifar.html, the version for Python, unpacked"
    ),
    "svhn": Kind(
        arrays.read_svhn,
        "ufldl.stanford.edu/housenumbers, train_32x32.mat and test_32x32.mat",
    ),
    "uci-har": Kind(
        arrays.read_har,
        "archive.ics.uci.edu: Human Activity Recognition Using Smartphones, unpacked",
    ),
    "indian-pines": Kind(
        arrays.read_indian_pines,
        "ehu.eus/ccwintco: Indian_pines_corrected.mat and Indian_pines_gt.mat",
    ),
    "imagenet": Kind(
        pictures.read_folders, "image-net.org, folders train/CLASS and val/CLASS of images"
    ),
    "hmdb51": Kind(
        frames.read_videos,
        "serre-lab.clps.brown.edu: HMDB51, every video a folder CLASS/VIDEO of its frames",
    ),
}


def read(text: str, *, limit: int | None = None) -> Examples:
    """The examples of ``NAME=FOLDER``, every channel of mean 0 and deviation 1 in training.

    ``limit`` is how many are taken to train on and how many to test on, the same in every run.

    Raises:
        DataError: the name is not known, the folder holds no such set, or a file is damaged.

    """
    name, equals, folder = text.partition("=")
    if not equals or name not in KINDS:
        raise DataError(f"{text!r} is no NAME=FOLDER with a name of {', '.join(KINDS)}.")
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is no folder: {name} is had from {KINDS[name].source}.")
    try:
        train, test = KINDS[name].read(Path(folder), limit)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no {error.args[-1]}, which belongs to {name}: it is had from "
            f"{KINDS[name].source}."
        ) from error
    (inputs, labels), (test_inputs, test_labels) = (_some(part, limit) for part in (train, test))
    _check(name, folder, {"train": (inputs, labels), "test": (test_inputs, test_labels)})
    return Examples(*_alike(inputs, test_inputs, labels, test_labels))


def _some(part: Part, limit: int | None) -> Part:
    """So many examples of a part, drawn alike in every run; float32 inputs, int64 labels."""
    inputs, labels = part
    if limit is not None and limit < len(inputs):
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(inputs), generator=generator)[:limit]
        inputs, labels = inputs[chosen], labels[chosen]
    return inputs.float(), labels.long()


def _check(name: str, folder: str, parts: dict[str, Part]) -> None:
    for which, (inputs, labels) in parts.items():
        if not len(inputs) or len(inputs) != len(labels):
            raise DataError(
                f"{folder} has {len(inputs)} inputs and {len(labels)} labels to {which} with of "
                f"{name}: expected as many of each, and one or more."
            )


def _alike(train: Tensor, test: Tensor, *labels: Tensor) -> Iterator[Tensor]:
    """Inputs of mean 0 and deviation 1 a channel, by the training examples, then their labels.

    Channels are the second axis of images, the last of series, and the third of videos.
    """
    channel = {2: 1, 3: 2, 4: 1, 5: 2}[train.dim()]
    others = [axis for axis in range(train.dim()) if axis != channel]
    deviation, mean = torch.std_mean(train, others, keepdim=True)
    scale = deviation.clamp_min(torch.finfo(train.dtype).tiny)
    yield (train - mean) / scale
    yield labels[0]
    yield (test - mean) / scale
    yield labels[1]
