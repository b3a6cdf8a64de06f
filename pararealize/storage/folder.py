"""Folder: files that several processes write and read at the same time."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pararealize.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind
    fcntl = None  # type: ignore[assignment]

#: How the names of files begin that are being written, or that a killed process left.
TEMPORARY = ".saving-"

#: Seconds to wait for a lock; who goes on without one removes less of what others left.
PATIENCE = 60.0

#: What tells two running machines apart on Linux; containers of one machine have it in common.
BOOT = Path("/proc/sys/kernel/random/boot_id")


def folder_of(path: str | Path) -> Path:
    """The folder that a path names.

    Raises:
        StorageError: it names none, whatever there may be.

    """
    wrong = not isinstance(path, (str, Path)) or not str(path) or "\0" in str(path)
    if wrong:
        raise StorageError(
            f"{path!r} is the name of no folder: write a path such as 'checkpoints/best', without "
            "null characters."
        )
    return Path(path)


def machine() -> str:
    """Eight characters that the processes have in common which see one another's locks."""
    try:
        name = BOOT.read_text(encoding="ascii")
    except OSError:
        name = socket.gethostname()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """A block that one process of a machine runs at a time; whether that could be had.

    It cannot on file systems without locks, or where another process keeps the lock for a minute.
    """
    handle = _opened(folder)
    if handle is None:
        yield False
        return
    held = _acquire(handle)
    try:
        yield held
    finally:
        if held:  # forked children may keep the handle open
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _opened(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return None


def _acquire(handle: int) -> bool:
    end = time.monotonic() + PATIENCE
    while fcntl is not None and time.monotonic() < end:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # network file systems lock no folders
            return False
        else:
            return True
    return False


def create(path: Path, content: bytes) -> None:
    """Write a new file to the disk; nobody knows its name yet, and a failure leaves none.

    Raises:
        OSError: it cannot be written, or is there already.

    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _write(handle, content)
    except BaseException:
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    os.close(handle)


def _write(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.fsync(handle)


def keep_renames(folder: Path) -> None:
    """Have the disk keep what was renamed in a folder, where it can be told to."""
    handle = _opened(folder)
    if handle is None:
        return
    try:
        os.fsync(handle)
    except OSError:  # some file systems do so by themselves, and refuse
        pass
    finally:
        os.close(handle)
