"""Weights: a checkpoint on disk, as tensors by name, and put into a model."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pararealize.errors import DataError
from pararealize.explain.table import some

#: Under what names checkpoints keep the weights beside other things.
INSIDE = ("state_dict", "model_state_dict", "model")
#: What torch's wrappers for several devices put before every name.
WRAPPER = "module."
#: What files of other kinds begin with.
OTHERS = {
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x93NUM": "an array of NumPy",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstandard archive",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"version https://git-lfs": "a pointer of git-lfs, in place of a file that was not downloaded",
    b"\x80": "a plain pickle",
    b"<": "a page or a document of markup, as servers send in place of a file",
}
#: How archives of zip begin, which torch.save writes, and what it wrote before version 1.6.
ARCHIVE, EARLIER = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
#: How checkpoints of tensors are written.
WRITE = (
    "write them with torch.save(model.state_dict(), path) or "
    "safetensors.torch.save_file(model.state_dict(), path)"
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; nothing of it is executed.

    What the file is decides how it is read, whatever its name ends with.

    Raises:
        DataError: no file, another kind of one, or one of other objects than tensors.

    """
    start = _start(path)
    try:
        if start[8:9] == b"{" or path.suffix == ".safetensors":
            return load_file(path)
        if start.startswith((ARCHIVE, EARLIER)):
            return _tensors(path, torch.load(path, map_location="cpu", weights_only=True))
    except DataError:
        raise
    except Exception as error:  # unpickling what is no pickle raises errors of every kind
        raise DataError(f"--weights {path} {_reason(start, error)}: {WRITE}.") from error
    raise DataError(f"--weights {path} is {_kind(start)}, and no checkpoint of torch: {WRITE}.")


def _start(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: there is none, or it is a folder or empty.

    """
    if "\0" in str(path) or not path.exists():
        raise DataError(f"--weights {path}: no such file.")
    if path.is_dir():
        kinds = ("safetensors", "pt", "pth")
        found = sorted(p.name for kind in kinds for p in path.glob(f"*.{kind}"))
        inside = f", such as {path / found[0]}" if found else ""
        raise DataError(f"--weights {path} is a folder: name the file of weights{inside}.")
    if not path.is_file():
        raise DataError(f"--weights {path} is no file that can be read twice: copy it to one.")
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise DataError(f"--weights {path} is empty, 0 bytes: {WRITE}.")
    return start


def _kind(start: bytes) -> str:
    named = next((said for first, said in OTHERS.items() if start.startswith(first)), "")
    if named:
        return named
    is_text = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start)
    shown = start[:24].decode("ascii", "replace") if is_text else ""
    return f"text (it begins with {shown!r})" if is_text else "data of an unknown kind"


def _reason(start: bytes, error: Exception) -> str:
    """Why what looks like a checkpoint cannot be read."""
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError) and "nsupported" in text:
        named = re.search(r"GLOBAL ([\w.]+)", text)
        return f"holds Python objects{f' ({named[1]:.80})' if named else ''} and not only tensors"
    if isinstance(error, RuntimeError) and "TorchScript" in text:
        return "is an archive of TorchScript, a program and not only tensors"
    if start.startswith(ARCHIVE):
        return "is an archive that torch did not write, or that was damaged or cut short"
    return f"is damaged, or no checkpoint of torch ({text.rstrip('.'):.160})"


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
