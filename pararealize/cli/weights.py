"""Weights: a trained checkpoint put into a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pararealize.errors import DataError
from pararealize.explain.table import some

#: Under what names checkpoints keep the weights beside other things.
INSIDE = ("state_dict", "model_state_dict", "model")
#: What torch's wrappers for several devices put before every name.
WRAPPER = "module."


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; nothing of it is executed.

    Raises:
        DataError: no file, another kind of one, or one of other objects than tensors.

    """
    if not path.is_file():
        raise DataError(f"--weights {path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        raise _unreadable(path, error) from error
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    return _tensors(path, found)


def _unreadable(path: Path, error: BaseException) -> DataError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return DataError(
        f"--weights {path} cannot be read ({reason:.200}): write them with torch.save("
        "model.state_dict(), path) or safetensors.torch.save_file(model.state_dict(), path)."
    )


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        inner = next((found[k] for k in INSIDE if isinstance(found.get(k), Mapping)), found)
        named = {str(k): v for k, v in inner.items() if isinstance(v, Tensor)}
        if named and len(named) == len(inner):
            wrapped = all(name.startswith(WRAPPER) for name in named)
            return {k.removeprefix(WRAPPER): v for k, v in named.items()} if wrapped else named
    raise DataError(
        f"--weights {path} holds a {type(found).__name__}, and a dictionary of tensors was "
        "expected: torch.save(model.state_dict(), path)."
    )


def fill(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a model built like the one it was written from.

    Raises:
        DataError: it cannot be read, or names and shapes are not the model's.

    """
    given, own = read_weights(path), model.state_dict()
    missing = [name for name in own if name not in given]
    unknown = [name for name in given if name not in own]
    shapes = [
        f"{k} {list(given[k].shape)} for {list(v.shape)}"
        for k, v in own.items()
        if k in given and isinstance(v, Tensor) and given[k].shape != v.shape
    ]
    problems = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    if any(problems.values()):
        said = "; ".join(f"{what}: {some(names)}" for what, names in problems.items() if names)
        raise DataError(
            f"--weights {path} are not those of {type(model).__name__}: {said}. Name the model "
            "that they were trained in."
        )
    model.load_state_dict(given)
