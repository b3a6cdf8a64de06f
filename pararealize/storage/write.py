"""Write: a compiled network into a folder that others may write and read meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from pararealize.errors import StorageError
from pararealize.ir.plan import FORMAT, Plan
from pararealize.runtime.communication.occasions import agree
from pararealize.runtime.communication.transport import Transport, together
from pararealize.storage.draft import PlanDraft
from pararealize.storage.folder import create, folder_of


@dataclass(frozen=True)
class Shard:
    """A file of weights: its name, its digest, and names that stand for tensors in it."""

    name: str
    digest: str
    aliases: dict[str, str]


def write(
    path: str | Path,
    weights: Mapping[str, Any],
    plan: Plan,
    transport: Transport | None = None,
    *,
    consolidated: bool = False,
) -> None:
    """Write a folder so that at every moment it holds one whole network, old or new.

    Weights go to files that no other save has the names of, on ranks one each, or one in all if
    ``consolidated``. A draft of ``plan.json`` names them before they are there, and becomes
    ``plan.json`` in one step when they are. What the last plan named is removed then, and what the
    drafts of killed processes name; nothing else is. On ranks, all call it.

    Raises:
        DisagreementError: on ranks, one of them does something else; nothing has been written.
        StorageError: the folder cannot be written; what it held before is unchanged.

    Warns:
        UserWarning: old weights cannot be removed.

    """
    agree(transport, f"saves {'one file' if consolidated else 'its weights'} to {path}")
    with together(transport):
        folder = folder_of(path)
    if transport is not None and consolidated:
        weights = _to_first(weights, transport)
    first, shard, content = transport is None or transport.rank == 0, None, b""
    with together(transport):
        if first or not consolidated:
            shard, content = _packed(weights)
    every = [shard] if transport is None else transport.exchange(shard)
    with ExitStack() as stack:
        with together(transport), _writing(folder):
            if first:
                draft = PlanDraft(folder, _document([s for s in every if s is not None], plan))
                stack.enter_context(draft.begun())
        with together(transport), _writing(folder):
            if shard is not None:
                create(folder / shard.name, content)
        with together(transport), _writing(folder):
            if first:
                draft.publish()


def _to_first(weights: Mapping[str, Any], transport: Transport) -> dict[str, Any]:
    """All ranks' weights on rank 0."""
    own = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in weights.items()}
    if transport.rank != 0:
        transport.send_object(own, 0, 0)
        return {}
    for peer in range(1, transport.size):
        own |= transport.receive_object(peer, 0)
    return own


def _packed(weights: Mapping[str, Any]) -> tuple[Shard, bytes]:
    tensors, aliases = _separate(weights)
    content = save(tensors)
    name = f"weights-{secrets.token_hex(8)}.safetensors"
    return Shard(name, hashlib.sha256(content).hexdigest(), aliases), content


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


def _document(shards: Sequence[Shard], plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "weights": {shard.name: shard.digest for shard in shards},
        "aliases": {name: source for shard in shards for name, source in shard.aliases.items()},
        "plan": json.loads(plan.to_json()),
    }


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the operating system says, as a sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        reason = getattr(error, "strerror", None) or error
        kind = "is a file, and " if os.path.isfile(folder) else ""
        raise StorageError(
            f"{folder} {kind}cannot be written ({reason}); what was saved there before is "
            "unchanged. Choose a folder that can be written."
        ) from error
