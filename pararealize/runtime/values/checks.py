"""Checks: say where a failure began."""

from __future__ import annotations

import linecache
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from pararealize.errors import NonFiniteError
from pararealize.runtime.values.pytree import leaves_of

#: How the file names of generated code begin.
GENERATED = "<pararealize"


def shapes(values: Any) -> str:
    """Shapes and dtypes of the tensors among some values."""
    leaves = [leaf for leaf in leaves_of(values) if isinstance(leaf, Tensor)]
    return ", ".join(f"{list(t.shape)} {t.dtype}" for t in leaves) or "no tensor"


def line_of(traceback: TracebackType | None) -> str:
    """The line of generated code, which names the layer, that a failure went through."""
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file.startswith(GENERATED):
            found = linecache.getline(file, traceback.tb_lineno).partition(";")[0].strip()
        traceback = traceback.tb_next
    return found


def check_finite(result: Any, label: str, values: Any) -> None:
    """See that a network made no NaN and no infinity.

    Raises:
        NonFiniteError: it did; names it and what it was called with.

    """
    for leaf in leaves_of(result):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            continue
        bad = int((~torch.isfinite(leaf)).sum())
        if bad:
            given = "finite" if _all_finite(values) else "already not finite"
            raise NonFiniteError(
                f"{label} made {bad} of {leaf.numel()} numbers NaN or infinite, called with "
                f"{shapes(values)}, which was {given}."
            )


def _all_finite(values: Any) -> bool:
    leaves = [v for v in leaves_of(values) if isinstance(v, Tensor) and v.is_floating_point()]
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves)
