"""Read: what a folder holds, as one save left it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from pararealize.errors import StorageError
from pararealize.ir.plan import READABLE, Plan
from pararealize.storage.folder import folder_of

PLAN = "plan.json"


@dataclass(frozen=True)
class Saved:
    """A folder read back: its plan and weights."""

    plan: Plan
    weights: dict[str, Tensor]


#: Times that a plan is read again, because another one came while its weights were read.
ATTEMPTS = 100


def read(path: str | Path) -> Saved:
    """The network saved in the folder ``path``; nothing of it is executed.

    A folder that others save to meanwhile is read as one of them left it.

    Raises:
        StorageError: no saved network, another version, a damaged or a foreign file.

    """
    folder = folder_of(path)
    for _ in range(ATTEMPTS):
        text = _text(folder)
        try:
            return _saved(folder, _document(folder, text))
        except StorageError:
            if _text(folder) == text:
                raise
    raise StorageError(
        f"{folder} was saved to {ATTEMPTS} times while it was read: wait until the processes that "
        "save to it pause, or have them save to other folders."
    )


def _saved(path: Path, document: dict[str, Any]) -> Saved:
    if document.get("format") not in READABLE:
        raise StorageError(
            f"{path} holds format {document.get('format')!r:.40}, and this version reads "
            f"{' and '.join(map(str, READABLE))}: save it again with this version."
        )
    try:
        plan = Plan.from_json(json.dumps(document["plan"]))
        files = {str(k): str(v) for k, v in document["weights"].items()}
        aliases = {str(k): str(v) for k, v in document["aliases"].items()}
        _ = plan.specs  # they can be read
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{PLAN} lacks or misstates {error}") from error
    weights = _weights(path, files)
    if set(aliases.values()) - set(weights):
        raise _damaged(path, "its shared weights are missing")
    return Saved(plan, weights | {name: weights[source] for name, source in aliases.items()})


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a digest of everything else in it."""
    values = {k: v for k, v in document.items() if k != "digest"}
    content = json.dumps(values, sort_keys=True).encode()
    return {**values, "digest": hashlib.sha256(content).hexdigest()}


def _text(path: Path) -> bytes:
    try:
        with _opened(path / PLAN) as file:
            return file.read()
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} holds no saved network ({PLAN} is missing): write one with "
            f"net.save({str(path)!r})."
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{PLAN} cannot be read: {error}") from error


def _document(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        if "digest" in document and document != seal(document):
            raise ValueError("it has changed since it was saved")
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{PLAN} cannot be read: {error}") from error
    return document


def _opened(file: Path) -> BinaryIO:
    """A file to read; a device or a pipe could be read for ever."""
    if file.exists() and not file.is_file():
        raise OSError(f"{file.name} is no file")
    return file.open("rb")


def _weights(path: Path, digests: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of all files, which are opened first: what is open, nobody can remove."""
    weights: dict[str, Tensor] = {}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_weights_file(path, name)) for name in digests}
        for name, file in files.items():
            weights |= _tensors(path, name, file, digests[name])
    return weights


def _weights_file(path: Path, name: str) -> BinaryIO:
    if Path(name).name != name:
        raise _damaged(path, f"its weights lie outside the folder: {name}")
    try:
        return _opened(path / name)
    except FileNotFoundError as error:
        raise _damaged(path, f"{name} is missing") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{name} cannot be read: {error}") from error


def _tensors(path: Path, name: str, file: BinaryIO, digest: str) -> dict[str, Tensor]:
    try:
        content = file.read()
    except OSError as error:
        raise _damaged(path, f"{name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, f"{name} has changed since it was saved")
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # a dtype may be known to one part only
        raise _damaged(path, f"{name} cannot be read: {error}") from error


def _damaged(path: Path, reason: str) -> StorageError:
    reason = _clipped(reason).rstrip(".")
    return StorageError(f"{path} is damaged or foreign: {reason}. Restore it, or save it again.")


def _clipped(reason: str) -> str:
    """One line of it; what a file says may be of any length."""
    return " ".join(reason.split())[:400]


def match(saved: Saved, names: Collection[str], wanted: Mapping[str, Tensor]) -> None:
    """Raise where the saved weights are not those of a network whose state has these names.

    ``wanted`` are those that this process holds, on ranks not all of them.

    Raises:
        StorageError: names the first weights that are missing, left over or of another shape.

    """
    missing = sorted(set(names) - set(saved.weights))
    extra = sorted(set(saved.weights) - set(names))
    if missing or extra:
        raise foreign(saved, f"missing weights {missing[:3]}, unknown ones {extra[:3]}.")
    for name, tensor in wanted.items():
        if saved.weights[name].shape != tensor.shape:
            found = list(saved.weights[name].shape)
            raise foreign(saved, f"{name} was saved as {found} and is {list(tensor.shape)}.")


def foreign(saved: Saved, reason: str) -> StorageError:
    """The error of a model that is not like the saved one."""
    return StorageError(
        f"the folder holds another network, saved from a {_clipped(saved.plan.model)}: "
        f"{_clipped(reason)} Load it with a model built like that one."
    )
