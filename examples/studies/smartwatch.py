"""Shoulder exercises seen by a smartwatch, which an installed package carries.

Burns et al., "Shoulder Physiotherapy Exercise Recognition: Machine Learning the Inertial Signals
from a Smartwatch" (arXiv:1802.01489).
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pararealize.errors import PararealizeError

PACKAGE = "seglearn"
FILE = "data/watch_dataset.npy"


@dataclass(frozen=True)
class Smartwatch:
    """Windows of the watch's six channels, split by the people who wore it.

    Windows are float32 `[count, length, channels]`, shifted and scaled so that every channel of
    the training windows has mean 0 and standard deviation 1; labels are int64 `[count]`, indices
    into `classes`; the subjects are those of the study, whose every series lies in one part.
    """

    train_windows: Tensor
    train_labels: Tensor
    test_windows: Tensor
    test_labels: Tensor
    train_subjects: tuple[int, ...]
    test_subjects: tuple[int, ...]
    classes: tuple[str, ...]
    source: str


def load_watch(
    length: int = 100,
    stride: int = 50,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_shorter: bool = False,
) -> Smartwatch:
    """Load 140 series of seven exercises by ten people, cut into windows of `length` samples.

    Acceleration and angular velocity come at 50 Hz, so that 100 samples are two seconds. Windows
    begin every `stride` samples. A share of the people, drawn with `seed`, is kept for testing.
    Series shorter than a window are refused, or left out with `skip_shorter`. The file is read
    without importing its package.

    Raises:
        PararealizeError: the package is not installed, or a window or part would be empty.

    """
    table = _read(_find_file())
    series = [torch.from_numpy(values).float() for values in table["X"]]
    lengths = [len(values) for values in series]
    _check_window(length, stride, max(lengths) if skip_shorter else min(lengths))
    train, test = _split(sorted({int(s) for s in table["subject"]}), test_fraction, seed)
    train_windows, train_labels = _windows(table, series, train, length, stride)
    test_windows, test_labels = _windows(table, series, test, length, stride)
    kept = sum(n >= length for n in lengths)
    std, mean = torch.std_mean(train_windows, (0, 1))
    return Smartwatch(
        train_windows=(train_windows - mean) / std,
        train_labels=train_labels,
        test_windows=(test_windows - mean) / std,
        test_labels=test_labels,
        train_subjects=train,
        test_subjects=test,
        classes=tuple(table["y_labels"]),
        source=f"{kept} series of shoulder exercises (arXiv:1802.01489) from {PACKAGE}",
    )


def _find_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folders = None if spec is None else spec.submodule_search_locations
    for folder in folders or ():
        file = Path(folder, FILE)
        if file.is_file():
            return file
    raise PararealizeError(
        f"no smartwatch data found: run `pip install {PACKAGE}`, which carries them."
    )


def _read(file: Path) -> dict[str, Any]:
    """Read a pickle, trusted as far as the package's own code is."""
    table: dict[str, Any] = np.load(file, allow_pickle=True).item()
    return table


def _check_window(length: int, stride: int, longest: int) -> None:
    if not (1 <= length <= longest and stride >= 1):
        raise PararealizeError(
            f"windows have 1 to {longest} samples, those of a series, and a stride of at least 1, "
            f"not length={length}, stride={stride}."
        )


def _split(
    subjects: list[int], test_fraction: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw people for testing; each part comes in ascending order."""
    count = round(test_fraction * len(subjects))
    if not 0 < count < len(subjects):
        raise PararealizeError(
            f"test_fraction={test_fraction} of {len(subjects)} people leaves a part without any."
        )
    order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [subjects[i] for i in order]
    return tuple(sorted(drawn[count:])), tuple(sorted(drawn[:count]))


def _windows(
    table: dict[str, Any],
    series: list[Tensor],
    subjects: tuple[int, ...],
    length: int,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """Windows `[count, length, channels]` of some people's series, and labels `[count]`."""
    own = [i for i, subject in enumerate(table["subject"]) if int(subject) in subjects]
    chosen = [i for i in own if len(series[i]) >= length]
    if not chosen:
        raise PararealizeError(
            f"no series of the people {subjects} has {length} samples: take shorter windows."
        )
    windows = [series[i].unfold(0, length, stride).transpose(1, 2) for i in chosen]
    labels = [
        torch.full((len(w),), int(table["y"][i])) for i, w in zip(chosen, windows, strict=True)
    ]
    return torch.cat(windows), torch.cat(labels)
