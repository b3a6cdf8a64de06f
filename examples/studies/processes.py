"""Processes: work done side by side in forked copies of this one, where failures stay."""

from __future__ import annotations

import io
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

#: Longest text of a failure.
WIDTH = 100


class FailedError(Exception):
    """Work in another process raised, died or took too long; the text says which."""


def brief(error: BaseException) -> str:
    """The first line of what an error says, and of what caused it."""
    if isinstance(error, FailedError):
        return str(error)
    said = f"{type(error).__name__}: {_first_line(error)}"
    cause = error.__cause__
    return f"{said} ← {type(cause).__name__}: {_first_line(cause)}" if cause is not None else said


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def in_processes(work: Sequence[Callable[[], T]], seconds: float) -> list[T]:
    """What each function returns, each called in a process of its own, all at the same time.

    The processes have what this one has in memory, and their output goes nowhere.

    Raises:
        FailedError: one of them raised or died, which ends the others, or time is over.

    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(i)) for i in range(len(work))]
        started = [
            context.Process(target=_deliver, args=job) for job in zip(work, files, strict=True)
        ]
        for process in started:
            process.start()
        try:
            _await(started, seconds)
        except FailedError as error:
            raise _first_failure(files) or error from None
        finally:
            for process in started:
                process.kill()
                process.join()
        results: list[T] = [torch.load(file, weights_only=False) for file in files]
        return results


def _deliver(work: Callable[[], Any], file: Path) -> None:
    """Leave in the file what was returned, or in one beside it how it failed; print nothing."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            torch.save(work(), file)
    except Exception as error:
        file.with_suffix(".failed").write_text(brief(error), encoding="utf-8")
        sys.exit(1)


def _await(started: Sequence[ForkProcess], seconds: float) -> None:
    """Return when all have ended well."""
    deadline = time.monotonic() + seconds
    running = list(started)
    while running:
        wait([process.sentinel for process in running], max(0.0, deadline - time.monotonic()))
        # Asked once: a process may end between two questions.
        codes = {process: process.exitcode for process in running}
        failed = [code for code in codes.values() if code]
        if failed:
            raise FailedError(f"the process ended with code {failed[0]}")
        running = [process for process, code in codes.items() if code is None]
        if running and time.monotonic() > deadline:
            raise FailedError(f"no answer within {seconds:g} seconds")


def _first_failure(files: Sequence[Path]) -> FailedError | None:
    """The earliest: what came later is often only its consequence."""
    failed = [path for file in files if (path := file.with_suffix(".failed")).exists()]
    if not failed:
        return None
    first = min(failed, key=lambda path: path.stat().st_mtime_ns)
    return FailedError(first.read_text(encoding="utf-8"))
