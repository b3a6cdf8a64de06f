"""Places: the lines of the user's code, and of other libraries', that a trace stands at."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from pathlib import Path

import torch

#: Where code lies that is nobody's network: in torch, not in torchvision, and here.
INSIDE = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1])
)
#: Networks that come with this package.
NETWORKS = f"{INSIDE[1]}models{os.sep}"


def is_inside(file: str) -> bool:
    """Whether a file is torch's or this package's own."""
    return file.startswith(INSIDE) and not file.startswith(NETWORKS)


def here() -> tuple[str, str]:
    """The file and line of the code that is being traced, and what stands there."""
    frame = sys._getframe(1)
    while frame.f_back is not None and is_inside(frame.f_code.co_filename):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return f"{file}:{line}", linecache.getline(file, line).strip()


def explain(error: Exception) -> str:
    """What went wrong, with the user's file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not is_inside(f.filename)]
    where = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
    line = f" ({outside[-1].line})" if outside and outside[-1].line else ""
    if "co_varnames" in str(error):  # what torch.fx makes of a decorator's wrapper
        return ": a decorator around its forward takes other arguments than forward says"
    return f"{where}{line}: {error}"
