"""Datasets: labelled examples of the sets that papers train on, as ``--data NAME[=FOLDER]`` says.

Nothing is downloaded. Some sets come with installed packages; the others are in a folder that the
user names, in itself or anywhere below it, by the names that their publishers gave the files.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from pararealize.cli.digits import load_digits
from pararealize.errors import DataError
from studies import arrays, frames, pictures
from studies.labelled import Examples
from studies.peaks import load_peaks
from studies.smartwatch import load_watch

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


def digits() -> Examples:
    """The handwritten digits of an installed package."""
    return Examples.of_digits(load_digits())


def smartwatch() -> Examples:
    """Two seconds of a smartwatch's signals ``[count, 100, 6]``, seven exercises."""
    watch = load_watch()
    train, test = (watch.train_windows, watch.train_labels), (watch.test_windows, watch.test_labels)
    return Examples(*train, *test)


#: Sets without a folder: they come with packages, or are computed.
CARRIED: dict[str, Callable[[], Examples]] = {
    "digits": digits,
    "peaks": load_peaks,
    "smartwatch": smartwatch,
}

#: What an example of each form is, by its axes.
FORMS = {
    "images": ({3}, "[channels, height, width]"),
    "series": ({2}, "[length, channels]"),
    "videos": ({4}, "[frames, channels, height, width]"),
    "vectors": ({1, 2, 3}, "of numbers, images and series among them"),
}


def add_data(parser: ArgumentParser, default: str) -> None:
    """Give a study ``--data NAME[=FOLDER]`` and ``--limit``, which :func:`read` takes."""
    known = f"{', '.join(CARRIED)}, or with a folder {', '.join(KINDS)}"
    parser.add_argument("--data", default=default, metavar="NAME[=FOLDER]", help=known)
    parser.add_argument("--limit", type=int, help="examples to train on, and to test on, at most")


def read(text: str, *, limit: int | None = None, form: str | None = None) -> Examples:
    """The examples of ``NAME=FOLDER``, every channel of mean 0 and deviation 1 in training.

    Without a folder those of a package, as it has them. ``limit`` is how many are taken to train
    on and how many to test on, the same in every run. ``form`` is what a study trains on, one of
    :data:`FORMS`; as vectors, images and series are flattened.

    Raises:
        DataError: the name is not known, the folder holds no such set, a file is damaged, or the
            examples are of another form.

    """
    if limit is not None and limit < 1:
        raise DataError(f"--limit {limit}: at least one example is needed.")
    name, equals, folder = text.partition("=")
    examples = _read_folder(name, folder, limit) if equals else _carried(name, limit)
    return examples if form is None else _formed(examples, name, form)


def _carried(name: str, limit: int | None) -> Examples:
    if name in KINDS:
        raise DataError(f"{name} needs a folder, {name}=FOLDER: it is had from {_source(name)}.")
    if name not in CARRIED:
        raise DataError(
            f"{name!r} is no set of examples: there are {', '.join(CARRIED)}, and with a folder, "
            f"NAME=FOLDER, {', '.join(KINDS)}."
        )
    found = CARRIED[name]()
    inputs, labels = _some((found.train_inputs, found.train_labels), limit)
    return Examples(inputs, labels, *_some((found.test_inputs, found.test_labels), limit))


def _read_folder(name: str, folder: str, limit: int | None) -> Examples:
    if name in CARRIED:
        raise DataError(f"{name} needs no folder: write --data {name}.")
    if name not in KINDS:
        raise DataError(f"{name}={folder} is no NAME=FOLDER with a name of {', '.join(KINDS)}.")
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is no folder: {name} is had from {_source(name)}.")
    try:
        train, test = KINDS[name].read(Path(folder), limit)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no {error.args[-1]}, which belongs to {name}: it is had from "
            f"{_source(name)}."
        ) from error
    (inputs, labels), (test_inputs, test_labels) = (_some(part, limit) for part in (train, test))
    _check(name, folder, {"train": (inputs, labels), "test": (test_inputs, test_labels)})
    return Examples(*_alike(inputs, test_inputs, labels, test_labels))


def _source(name: str) -> str:
    return KINDS[name].source


def _formed(examples: Examples, name: str, form: str) -> Examples:
    """Examples of the form that is wanted."""
    shape = list(examples.train_inputs.shape[1:])
    axes, meant = FORMS[form]
    if len(shape) not in axes:
        fits = [other for other, (own, _) in FORMS.items() if len(shape) in own]
        raise DataError(
            f"--data {name}: this study takes {form} {meant}, and these are {fits[0]} {shape}."
        )
    return examples.flat() if form == "vectors" else examples


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
