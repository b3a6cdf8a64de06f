"""Storage: a compiled network as a folder of safetensors weights and a JSON plan."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from pararealize.errors import StorageError
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import FORMAT, Plan

PLAN = "plan.json"


@dataclass(frozen=True)
class Saved:
    """A folder read back: its plan and weights."""

    plan: Plan
    weights: dict[str, Tensor]


def write(path: Path, weights: Mapping[str, Any], plan: Plan) -> None:
    """Write the folder ``path`` so that at every moment it holds one whole network, old or new.

    Weights go to a file named by their digest; ``plan.json`` names that file and is replaced in
    one step; files that no plan names are removed last.

    Raises:
        StorageError: the folder cannot be written.

    """
    tensors, aliases = _separate(weights)
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    document = {
        "format": FORMAT,
        "weights": name,
        "sha256": digest,
        "aliases": aliases,
        "plan": json.loads(plan.to_json()),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / name, content)
        _replace(path / PLAN, json.dumps(document, indent=2).encode())
        for stale in path.glob("weights-*.safetensors"):
            if stale.name != name:
                stale.unlink()
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}); what was saved there before "
            "is unchanged. Choose a folder that can be written."
        ) from error


def _separate(weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors to write, each once, and the names that stand for the same tensor."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise StorageError(f"{name} is a {type(value).__name__}, and only tensors are saved.")
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        tensors[name] = value.detach().contiguous().cpu().clone()
    return tensors, aliases


def _replace(path: Path, content: bytes) -> None:
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


def read(path: Path) -> Saved:
    """The network saved in the folder ``path``; nothing of it is executed.

    Raises:
        StorageError: no saved network, another version, a damaged or a foreign file.

    """
    document = _document(path)
    if document.get("format") != FORMAT:
        raise StorageError(
            f"{path} holds format {document.get('format')!r}, and this version reads {FORMAT}: "
            "save it again with this version."
        )
    try:
        plan = Plan.from_json(json.dumps(document["plan"]))
        name, digest = str(document["weights"]), document["sha256"]
        aliases = {str(k): str(v) for k, v in document["aliases"].items()}
        _ = Parareal.from_json(plan.method, nn.Identity), plan.specs  # they can be read
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{PLAN} lacks or misstates {error}") from error
    weights = _weights(path, name, digest)
    if set(aliases.values()) - set(weights):
        raise _damaged(path, "its shared weights are missing")
    return Saved(plan, weights | {name: weights[source] for name, source in aliases.items()})


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads((path / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} holds no saved network ({PLAN} is missing): write one with "
            f"net.save({str(path)!r})."
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{PLAN} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, f"{PLAN} is no object")
    return document


def _weights(path: Path, name: str, digest: Any) -> dict[str, Tensor]:
    if Path(name).name != name:
        raise _damaged(path, f"its weights lie outside the folder: {name}")
    file = path / name
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise _damaged(path, f"{name} is missing") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, f"{name} has changed since it was saved")
    try:
        return load(content)
    except SafetensorError as error:
        raise _damaged(path, f"{name} cannot be read: {error}") from error


def _damaged(path: Path, reason: str) -> StorageError:
    return StorageError(f"{path} is damaged or foreign: {reason}. Restore it, or save it again.")


def match(saved: Saved, wanted: Mapping[str, Tensor]) -> None:
    """Whether the saved weights are those of a network with the state ``wanted``.

    Raises:
        StorageError: names the first weights that are missing, left over or of another shape.

    """
    missing = [name for name in wanted if name not in saved.weights]
    extra = [name for name in saved.weights if name not in wanted]
    if missing or extra:
        raise foreign(saved, f"missing weights {missing[:3]}, unknown ones {extra[:3]}.")
    for name, tensor in wanted.items():
        if saved.weights[name].shape != tensor.shape:
            found = list(saved.weights[name].shape)
            raise foreign(saved, f"{name} was saved as {found} and is {list(tensor.shape)}.")


def foreign(saved: Saved, reason: str) -> StorageError:
    """The error of a model that is not like the saved one."""
    return StorageError(
        f"the folder holds another network, saved from a {saved.plan.model}: {reason} Load it "
        "with a model built like that one."
    )
