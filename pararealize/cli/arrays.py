"""Arrays: samples in one file, mapped into memory and read as they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pararealize.errors import DataError
from pararealize.ir.chain import TensorSpec

#: How files of arrays end.
ARRAYS = (".npy", ".safetensors")
#: Samples that a network is compiled for where nothing else is said.
FEW = 2


def open_array(path: Path, name: str = "") -> Any:
    """The array in a file, of which only what is used is read.

    Raises:
        DataError: no file, a damaged one, one of Python objects, several tensors and no name.

    """
    if not path.is_file():
        raise DataError(f"no file {path}.")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(_chosen(path, sorted(file.keys()), name))
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"{path} cannot be read as an array of numbers ({reason}): write it with "
            "numpy.save(path, array) or safetensors.torch.save_file({'data': tensor}, path)."
        ) from error


def _chosen(path: Path, names: list[str], name: str) -> str:
    if name in names:
        return name
    if name or len(names) != 1:
        first = ", ".join(names[:5]) or "none"
        example = names[0] if names else "NAME"
        problem = f"no tensor {name!r}" if name else f"{len(names)} tensors"
        raise DataError(
            f"{path} holds {problem}; its tensors are {first}: name one, {path}:{example}."
        )
    return names[0]


@final
@dataclass(frozen=True)
class Array:
    """Samples ``[count, …]`` of a network's only input, in an order drawn once.

    Files often hold one class after another, and every batch should be like the others.
    """

    source: str
    values: Any
    batch: int

    def __post_init__(self) -> None:
        if not self.values.ndim or not len(self.values):
            shape = list(self.values.shape)
            raise DataError(f"{self.source} has no samples: its shape is {shape}.")

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.values)

    def example(self, model: nn.Module) -> tuple[Tensor, ...] | None:
        """Zeros of their shape, in the precision of the model."""
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        found = _tensor(self.values[:FEW], self.source)
        whole = not found.is_floating_point()
        return (torch.zeros(found.shape, dtype=torch.int64 if whole else dtype),)

    def batches(self, specs: Mapping[str, TensorSpec]) -> Iterator[Tensor]:
        """Batches in the network's precision.

        Raises:
            DataError: the network has several inputs, or takes another kind of numbers.

        """
        spec = only(specs, self.source)
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(0))
        for chosen in order.split(self.batch):
            index = chosen if isinstance(self.values, Tensor) else chosen.numpy()
            yield self._fitting(_tensor(self.values[index], self.source), spec.dtype)

    def _fitting(self, found: Tensor, dtype: torch.dtype) -> Tensor:
        real, whole = found.is_floating_point(), not (found.is_complex() or found.dtype.is_signed)
        whole = whole or found.dtype in {torch.int8, torch.int16, torch.int32, torch.int64}
        fits = real if dtype.is_floating_point else whole and found.dtype != torch.bool
        if not fits:
            raise DataError(
                f"{self.source} holds {found.dtype}, and the network takes {dtype}: save the "
                "samples as the network was trained on them, for images usually as floating-point "
                "numbers scaled to [0, 1]."
            )
        return found.to(dtype)


def only(specs: Mapping[str, TensorSpec], source: str) -> TensorSpec:
    """The shape of a network's only input.

    Raises:
        DataError: it has several.

    """
    if len(specs) != 1:
        raise DataError(
            f"{source} gives one input, and the network takes {', '.join(specs)}: name a "
            "factory, module:factory, whose batches are tuples or dictionaries of them."
        )
    return next(iter(specs.values()))


def _tensor(values: Any, source: str) -> Tensor:
    """A copy of some samples.

    Raises:
        DataError: they are no numbers.

    """
    if isinstance(values, Tensor):
        return values.clone()
    try:
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise DataError(
            f"{source} holds {values.dtype}, which are no numbers that torch knows: save them as "
            "float32 or int64."
        ) from error
