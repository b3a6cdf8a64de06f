"""Running: what examples share to start, on ranks or alone, and to end with one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pararealize import ParallelNetwork, PararealizeError, SlowerThanSerialWarning, pararealize
from pararealize.cli.launch import ALLOCATORS, mpiexec


def start(main: Callable[[], None]) -> None:
    """Run an example; what is missing, or cannot be done, is said in one sentence, exit code 2."""
    try:
        main()
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed"
        sys.stderr.write(f'{problem}; examples need the extra dev: pip install -e ".[dev]".\n')
        sys.exit(2)
    except PararealizeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def needs_device(kind: str) -> None:
    """End a study of a CUDA device where there is none, with one sentence and exit code 2."""
    if kind == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("This study needs a CUDA device, and this PyTorch sees none.\n")
        raise SystemExit(2)


def again(
    *arguments: str, ranks: int = 0, allocator: str = "heap", heard: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run this script in another process, or on ranks, with further arguments; output if heard.

    An allocator is told what to do when a process starts.
    """
    on_ranks = [mpiexec(), "-n", str(ranks)] if ranks else []
    python = [sys.executable, *(["-m", "mpi4py"] if ranks else [])]
    return subprocess.run(
        [*on_ranks, *python, *sys.argv, *arguments],
        env={**os.environ, **ALLOCATORS[allocator]},
        stdout=subprocess.PIPE if heard else None,
        text=True,
        check=False,
    )


def timed_anyway(model: nn.Module, n: int, **options: Any) -> ParallelNetwork:
    """The parallel network, without a warning that it may be slower: that is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)
        return pararealize(model, n, **options)
