"""Memory: give back what compiling took."""

from __future__ import annotations

import ctypes
import gc
import sys


def release() -> None:
    """Return memory that is free inside the heap to the operating system, where glibc can.

    A rank has built the whole network and dropped the others' subnetworks. The holes that these
    leave are smaller than the states of a training step, which would be allocated beside them.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
