"""Storage: a compiled network as a folder of safetensors weights and a JSON plan."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pararealize.errors import StorageError
from pararealize.ir.plan import FORMAT, READABLE, Plan
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import Transport, together

PLAN = "plan.json"
#: How the names of files begin that are being written, or that a killed process left.
TEMPORARY = ".saving-"


@dataclass(frozen=True)
class Saved:
    """A folder read back: its plan and weights."""

    plan: Plan
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Shard:
    """A file of weights: its name, its digest, and names that stand for tensors in it."""

    name: str
    digest: str
    aliases: dict[str, str]


def write(
    path: Path,
    weights: Mapping[str, Any],
    plan: Plan,
    transport: Transport | None = None,
    *,
    consolidated: bool = False,
) -> None:
    """Write the folder ``path`` so that at every moment it holds one whole network, old or new.

    Weights go to files named by their digests, on ranks one each, or one in all if
    ``consolidated``; ``plan.json`` names the files and is replaced in one step; files that no
    plan names are removed last. On ranks, all call it.

    Raises:
        DisagreementError: on ranks, one of them does something else; nothing has been written.
        StorageError: the folder cannot be written; what it held before is unchanged.

    """
    if transport is None:
        _write_plan(path, [_write_shard(path, weights)], plan)
        return
    agree(transport, f"saves {'one file' if consolidated else 'its weights'} to {path}")
    if consolidated:
        weights = _to_first(weights, transport)
    writes = transport.rank == 0 or not consolidated
    mine = None
    with together(transport):
        mine = _write_shard(path, weights) if writes else None
    shards = [shard for shard in transport.exchange(mine) if shard is not None]
    with together(transport):
        if transport.rank == 0:
            _write_plan(path, shards, plan)


def _to_first(weights: Mapping[str, Any], transport: Transport) -> dict[str, Any]:
    """All ranks' weights on rank 0."""
    own = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in weights.items()}
    if transport.rank != 0:
        transport.send_object(own, 0, 0)
        return {}
    for peer in range(1, transport.size):
        own |= transport.receive_object(peer, 0)
    return own


def _write_shard(path: Path, weights: Mapping[str, Any]) -> Shard:
    tensors, aliases = _separate(weights)
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    try:
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / name, content)
    except OSError as error:
        raise _unwritable(path, error) from error
    return Shard(name, digest, aliases)


def _write_plan(path: Path, shards: Sequence[Shard], plan: Plan) -> None:
    """Name the shards as the network saved here, and remove all others."""
    document = {
        "format": FORMAT,
        "weights": {shard.name: shard.digest for shard in shards},
        "aliases": {name: source for shard in shards for name, source in shard.aliases.items()},
        "plan": json.loads(plan.to_json()),
    }
    try:
        replace_file(path / PLAN, json.dumps(document, indent=2).encode())
        for stale in (*path.glob("weights-*.safetensors"), *path.glob(f"{TEMPORARY}*")):
            if stale.name not in document["weights"]:
                stale.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}); what was saved there before "
        "is unchanged. Choose a folder that can be written."
    )


def _separate(weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors to write, each once, and the names that stand for the same tensor."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise StorageError(f"{name} is a {type(value).__name__}, and only tensors are saved.")
        memory = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and memory in seen:
            aliases[name] = seen[memory]
            continue
        seen[memory] = name
        tensors[name] = value.detach().contiguous().cpu().clone()
    return tensors, aliases


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at once, so that nobody reads half of it, and a failure leaves the old one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
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
    weights: dict[str, Tensor] = {}
    for name, digest in files.items():
        weights |= _weights(path, name, digest)
    if set(aliases.values()) - set(weights):
        raise _damaged(path, "its shared weights are missing")
    return Saved(plan, weights | {name: weights[source] for name, source in aliases.items()})


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_content(path / PLAN))
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} holds no saved network ({PLAN} is missing): write one with "
            f"net.save({str(path)!r})."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{PLAN} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, f"{PLAN} is no object")
    return document


def _content(file: Path) -> bytes:
    """What a file holds; a device or a pipe could be read for ever."""
    if file.exists() and not file.is_file():
        raise OSError(f"{file.name} is no file")
    return file.read_bytes()


def _weights(path: Path, name: str, digest: str) -> dict[str, Tensor]:
    if Path(name).name != name:
        raise _damaged(path, f"its weights lie outside the folder: {name}")
    try:
        content = _content(path / name)
    except FileNotFoundError as error:
        raise _damaged(path, f"{name} is missing") from error
    except (OSError, ValueError) as error:
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
