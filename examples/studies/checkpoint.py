"""Trained weights in a folder, safetensors beside a JSON file of what training came to."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from pararealize.errors import StorageError


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, and the seconds, test loss and test accuracy of training them.

    ``recipe`` says how they were trained, so that those of another recipe are not mistaken for
    them.
    """

    weights: dict[str, Tensor]
    recipe: str
    seconds: float
    loss: float
    accuracy: float


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``path.safetensors``, then ``path.json``, without which the weights do not count.

    Raises:
        StorageError: the folder cannot be written.

    """
    content = save({k: v.detach().contiguous() for k, v in checkpoint.weights.items()})
    document = {
        "recipe": checkpoint.recipe,
        "seconds": checkpoint.seconds,
        "loss": checkpoint.loss,
        "accuracy": checkpoint.accuracy,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(_weights(path), content)
        replace_file(_figures(path), json.dumps(document, indent=2).encode())
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): choose another cache folder."
        ) from error


def read(path: Path, recipe: str) -> Checkpoint | None:
    """What was written to ``path``, or None where nothing was.

    Raises:
        StorageError: a file is missing, damaged, or of another recipe.

    """
    if not _figures(path).exists():
        return None
    try:
        document = json.loads(_figures(path).read_bytes())
        content = _weights(path).read_bytes()
        if hashlib.sha256(content).hexdigest() != document["sha256"]:
            raise ValueError("the weights are not those that were written")
        if document["recipe"] != recipe:
            raise ValueError(f"it was trained as {document['recipe']}, not as {recipe}")
        figures = (float(document[name]) for name in ("seconds", "loss", "accuracy"))
        return Checkpoint(load(content), recipe, *figures)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"the trained network {path} cannot be used ({error}): remove {_figures(path)} to "
            "train it again."
        ) from error


def _weights(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def _figures(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at once, so that nobody reads half of it, and a failure leaves the old one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".saving-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
