"""Agreement: what all ranks have to agree about before they talk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pararealize.errors import RankError
from pararealize.runtime.communication.transport import Transport
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
        order = f" in memory by {list(leaf.strides)}" if leaf.strides else ""
        return f"{leaf}{order}{' requiring a gradient' if value.requires_grad else ''}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return type(value).__name__


def digest(text: str) -> int:
    """A number of 63 bits that other texts have not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def check_same_plan(transport: Transport, plan: str) -> None:
    """Raise where ranks have compiled different networks; all call it.

    Raises:
        RankError: names the first rank whose plan is not that of rank 0.

    """
    plans = transport.exchange(plan)
    if len(set(plans)) > 1:
        other = next(rank for rank, text in enumerate(plans) if text != plans[0])
        raise RankError(
            f"rank {other} compiled another network than rank 0 ({plans[other].count('index')} "
            f"subnetworks and {plans[0].count('index')}, or other layers or options): call "
            "pararealize with the same model, n, method and inputs on every rank."
        )
