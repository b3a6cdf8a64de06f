"""Checks: say where a failure began."""

from __future__ import annotations

import linecache
from types import TracebackType
from typing import Any

import torch

from pararealize.errors import NonFiniteError
from pararealize.runtime.values.pytree import tensors_of

#: How the file names of generated code begin.
GENERATED = "<pararealize"


def shapes(values: Any) -> str:
    """Shapes and dtypes of the tensors among some values."""
    return ", ".join(f"{list(t.shape)} {t.dtype}" for t in tensors_of(values)) or "no tensor"


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
    """Raise where a network made a NaN or an infinity.

    Raises:
        NonFiniteError: it did; names it and what it was called with.

    """
    for leaf in tensors_of(result):
        bad = int((~torch.isfinite(leaf)).sum()) if leaf.is_floating_point() else 0
        if bad:
            leaves = [given for given in tensors_of(values) if given.is_floating_point()]
            fine = all(bool(torch.isfinite(given).all()) for given in leaves)
            given = "finite" if fine else "already not finite"
            raise NonFiniteError(
                f"{label} made {bad} of {leaf.numel()} numbers NaN or infinite, called with "
                f"{shapes(values)}, which was {given}."
            )
