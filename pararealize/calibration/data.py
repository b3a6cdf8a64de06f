"""Data: what a calibration is given, as the inputs of one call after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pararealize.errors import CalibrationError
from pararealize.ir.chain import Expectation, TensorSpec

Inputs = dict[str, Any]


def batches(
    data: Any, specs: Mapping[str, TensorSpec], expectations: Mapping[str, Expectation], batch: int
) -> Iterator[Inputs]:
    """The tensor arguments of every call by name, each as it was compiled for.

    ``data`` is a tensor or an array (cut into batches), a ``Dataset``, or an iterable of batches: a
    tensor, a tuple whose first elements are the network's inputs (labels may follow), or a
    dictionary of them.

    Raises:
        CalibrationError: no data, fewer samples than a batch, another shape or kind, NaN.

    """
    count = 0
    for count, given in enumerate(_iterate(data, batch), start=1):
        inputs = _named(given, specs, count)
        for name, value in inputs.items():
            _check(value, name, specs[name], expectations.get(name), count)
        yield inputs
    if not count:
        raise CalibrationError("no data: calibrate needs at least one batch of inputs.")


def _iterate(data: Any, batch: int) -> Iterable[Any]:
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        _check_count(len(data) if data.dim() else 0, batch)
        return torch.split(data, batch)
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        _check_count(len(data), batch)
        return DataLoader(data, batch)
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise CalibrationError(
            f"calibrate takes a tensor, a Dataset or an iterable of batches, and got a "
            f"{type(data).__name__}: write net.calibrate(images), images [samples, ...]."
        )
    return data


def _check_count(samples: int, batch: int) -> None:
    if 0 < samples < batch:
        raise CalibrationError(
            f"{samples} samples are fewer than one batch of {batch}: give more, or write "
            f"calibrate(data, batch={max(1, samples // 4)})."
        )


def _named(given: Any, specs: Mapping[str, TensorSpec], count: int) -> Inputs:
    names = list(specs)
    if isinstance(given, Tensor):
        given = (given,)
    if isinstance(given, Mapping):
        found = {name: given[name] for name in names if name in given}
    elif isinstance(given, Sequence) and not isinstance(given, str):
        found = dict(zip(names, given, strict=False))
    else:
        raise CalibrationError(f"batch {count} is a {type(given).__name__}, and no tensor.")
    missing = [name for name in names if not isinstance(found.get(name), Tensor)]
    if missing:
        raise CalibrationError(
            f"batch {count} has no tensor for the network's input {missing[0]!r}: give tuples in "
            f"the order ({', '.join(names)}), or dictionaries with these names."
        )
    return found


def _check(
    value: Tensor, name: str, spec: TensorSpec, expected: Expectation | None, count: int
) -> None:
    problem = expected.mismatch(tuple(value.shape)) if expected is not None else None
    if value.dim() != len(spec.shape) or tuple(value.shape[1:]) != spec.shape[1:] or problem:
        wanted = ", ".join(["batch", *map(str, spec.shape[1:])])
        raise CalibrationError(
            f"batch {count} of the data has shape {list(value.shape)} for the input {name!r}, and "
            f"the network was compiled for [{wanted}]: resize the data, or compile the network "
            "with example_inputs= of their shape."
        )
    if value.is_floating_point() != spec.dtype.is_floating_point:
        raise CalibrationError(
            f"batch {count} of the data is {value.dtype} for the input {name!r}, and the network "
            f"takes {spec.dtype}: convert it, data.to({spec.dtype})."
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        at = torch.nonzero(~torch.isfinite(value.flatten(1)).all(1)).flatten()
        raise CalibrationError(
            f"batch {count} of the data has NaN or infinite numbers (sample {int(at[0])} of it "
            "first): remove those samples."
        )
    if not value.shape[0]:
        raise CalibrationError(f"batch {count} of the data has no samples.")


def divided(inputs: Iterable[Inputs], held_out: float) -> Iterator[tuple[Inputs, bool]]:
    """Batches, and which of them are held out: one in ⌊1/share⌋, at least the last.

    A single batch is cut in two.

    Raises:
        CalibrationError: the single batch has one sample only.

    """
    every, held = max(2, round(1 / held_out)), False
    for count, (given, following) in enumerate(pairwise(chain(inputs, [None])), start=1):
        assert given is not None
        if following is None and count == 1:
            yield from _halves(given, held_out)
            return
        out = count % every == 0 or (following is None and not held)
        held = held or out
        yield given, out


def _halves(inputs: Inputs, held_out: float) -> Iterator[tuple[Inputs, bool]]:
    samples = len(next(iter(inputs.values())))
    kept = samples - max(1, round(samples * held_out))
    if kept < 1:
        raise CalibrationError("one sample is not enough: some are fitted to, others held out.")
    yield {name: value[:kept] for name, value in inputs.items()}, False
    yield {name: value[kept:] for name, value in inputs.items()}, True
