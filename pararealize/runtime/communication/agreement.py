"""Agreement: what all ranks have to agree about before they talk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pararealize.runtime.values.form import leaf_of
from pararealize.runtime.values.pytree import flatten


def signature(inputs: Mapping[str, Any], *, training: bool, jumps: bool = False) -> str:
    """Shapes, dtypes and modes of one call, in words.

    Two calls of one signature have states of the same shapes.
    """
    parts = [f"{name} {_text(value)}" for name, value in inputs.items()]
    parts.append("train mode" if training else "eval mode")
    parts.append("with gradients" if torch.is_grad_enabled() else "without gradients")
    parts += ["with its jumps"] if jumps else []
    parts += [
        f"autocast {torch.get_autocast_dtype(kind)}"
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    ]
    return ", ".join(parts)


def _text(value: Any) -> str:
    leaves, structure = flatten(value)
    texts = [_leaf(leaf) for leaf in leaves]
    return texts[0] if structure.is_leaf else f"{structure.kind} of ({', '.join(texts)})"


def _leaf(value: Any) -> str:
    if isinstance(value, Tensor):
        leaf = leaf_of(value)
        order = "" if leaf.format == torch.contiguous_format else f" {leaf.format}"
        return f"{leaf}{order}{' requiring a gradient' if value.requires_grad else ''}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return type(value).__name__


def digest(text: str) -> int:
    """A number of 63 bits that other texts have not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
