"""Small files of the sets that papers train on, of the kinds that their publishers made."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat


def numbers(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape).astype(np.uint8)


def idx(folder: Path) -> None:
    for which, count in (("train", 6), ("t10k", 3)):
        for name, values in (
            ("images-idx3", numbers(count, 28, 28)),
            ("labels-idx1", np.arange(count, dtype=np.uint8)),
        ):
            sizes = struct.pack(f">{values.ndim}I", *values.shape)
            head = bytes((0, 0, 8, values.ndim)) + sizes
            (folder / f"{which}-{name}-ubyte").write_bytes(head + values.tobytes())


def batch(path: Path, key: str, count: int) -> None:
    table = {"data": numbers(count, 3072), key: list(range(count))}
    path.write_bytes(pickle.dumps(table))


def cifar10(folder: Path) -> None:
    below = folder / "cifar-10-batches-py"
    below.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch(below / name, "labels", 2)


def cifar100(folder: Path) -> None:
    for name, count in (("train", 6), ("test", 3)):
        batch(folder / name, "fine_labels", count)


def svhn(folder: Path) -> None:
    for which, count in (("train", 6), ("test", 3)):
        labels = np.arange(1, count + 1)[:, None] * 10 // (count if which == "test" else 1)
        table = {"X": numbers(32, 32, 3, count), "y": labels.clip(1, 10)}
        savemat(folder / f"{which}_32x32.mat", table)


def har(folder: Path) -> None:
    for which, count in (("train", 6), ("test", 3)):
        signals = folder / "UCI HAR Dataset" / which / "Inertial Signals"
        signals.mkdir(parents=True)
        for i, name in enumerate(("body_acc", "body_gyro", "total_acc")):
            for j, axis in enumerate("xyz"):
                values = np.arange(count * 128).reshape(count, 128) % 7 + 3 * i + j
                np.savetxt(signals / f"{name}_{axis}_{which}.txt", values)
        np.savetxt(signals.parent / f"y_{which}.txt", np.arange(count) % 6 + 1, fmt="%d")


def pines(folder: Path) -> None:
    truth = np.arange(100).reshape(10, 10) % 3
    bands = numbers(10, 10, 20).astype(np.int16)
    savemat(folder / "Indian_pines_corrected.mat", {"indian_pines_corrected": bands})
    savemat(folder / "Indian_pines_gt.mat", {"indian_pines_gt": truth.astype(np.uint8)})


def picture(path: Path, side: tuple[int, int], colour: int) -> None:
    from PIL import Image  # noqa: PLC0415  skipped without it

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", side, (colour, 0, 255)).save(path)


def imagenet(folder: Path) -> None:
    for which, count in (("train", 3), ("val", 2)):
        for i, name in enumerate(("n01", "n02")):
            for k in range(count):
                picture(folder / which / name / f"{k}.png", (80, 70 + k), 100 * i + k)


def videos(folder: Path) -> None:
    for i, name in enumerate(("run", "walk")):
        for k in range(5):
            for t in range(2 + k):
                picture(folder / name / f"clip{k}" / f"{t:03}.png", (64, 64), 100 * i + 10 * k + t)


WRITERS: dict[str, tuple[Callable[[Path], None], tuple[int, ...], int]] = {
    "mnist": (idx, (1, 28, 28), 6),
    "fashion-mnist": (idx, (1, 28, 28), 6),
    "cifar10": (cifar10, (3, 32, 32), 10),
    "cifar100": (cifar100, (3, 32, 32), 6),
    "svhn": (svhn, (3, 32, 32), 6),
    "uci-har": (har, (128, 9), 6),
    "indian-pines": (pines, (20,), 52),
    "imagenet": (imagenet, (3, 64, 64), 6),
    "hmdb51": (videos, (128, 3, 64, 64), 8),
}
