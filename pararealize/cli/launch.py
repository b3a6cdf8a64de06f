"""Launch: a command of this package on several ranks, under the environment's own mpiexec."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from pararealize.errors import MethodError, RankError

#: What glibc's allocator is told. ``heap`` keeps large blocks on the heap instead of giving them
#: back to the system after every use: page faults cost more than many a layer.
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "heap": {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(64 << 30)},
}
#: How mpiexec ends where a rank was killed.
KILLED = (9, 137, -9)
#: Signals of which a process dies by its own fault; shells and mpiexec report them in three ways.
CRASHED = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)
#: What MPI adds when a rank ends all others, or when the system ends one: a box of nine lines.
ABORT = re.compile(rb"Abort\(\d+\) on node \d+|application called MPI_Abort")
BOX = re.compile(
    rb"={60,}$|=   (BAD TERMINATION OF|PID \d+ RUNNING|EXIT CODE: |CLEANING UP |YOU CAN IGNORE)"
    rb"|YOUR APPLICATION TERMINATED WITH|This typically refers to a problem with your app"
    rb"|Please see the FAQ page for debugging"
)

#: Most processes, whatever the machine; larger ones take more.
MOST_RANKS = 64

#: The extra of this package that brings an optional one.
EXTRAS = {"typer": "cli", "rich": "cli", "matplotlib": "cli", "mpi4py": "mpi", "mpich": "mpi"}


def missing(package: str) -> str:
    """A sentence that says how a missing package is installed."""
    return f'{package} is not installed: pip install "pararealize[{EXTRAS[package]}]".'


def launch(arguments: Sequence[str], ranks: int, allocator: str = "heap") -> int:
    """Run ``pararealize ARGUMENTS --worker FOLDER`` on ranks; the exit code.

    The folder is where the ranks meet for torch.distributed; it is removed afterwards.

    Raises:
        RankError: there is no mpi4py or no mpiexec, or no rank to start.

    """
    most = max(MOST_RANKS, 8 * (os.cpu_count() or 1))
    if not 1 <= ranks <= most:
        raise RankError(f"--ranks {ranks}: expected 1 to {most}, processes of this machine.")
    if allocator not in ALLOCATORS:
        raise MethodError(f"--allocator {allocator!r}: expected one of {', '.join(ALLOCATORS)}.")
    if find_spec("mpi4py") is None:
        raise RankError(f"--ranks: {missing('mpi4py')}")
    with tempfile.TemporaryDirectory(prefix="pararealize-") as folder:
        command = [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py"]
        command += ["-m", "pararealize", *arguments, "--worker", folder]
        code = run(command, {**os.environ, **ALLOCATORS[allocator]})
    said = was_ended(code, ranks)
    if said:
        print(f"pararealize: {said}", file=sys.stderr)
    return code


def was_ended(code: int, ranks: int) -> str:
    """What to say where the system ended a rank, by the exit code; nothing where it did not."""
    if code in KILLED:
        return (
            "a rank was killed by the system (signal 9), which mostly means that memory ran out: "
            f"take fewer than {ranks} ranks, a smaller batch, or a machine with more of it."
        )
    for number in CRASHED:
        if code in (number, -number, 128 + number):
            return (
                f"a rank crashed ({number.name}), which Python code alone does not do: try without "
                "--ranks, to see whether the model or an extension that it uses is the reason; "
                "PYTHONFAULTHANDLER=1 shows where."
            )
    return ""


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it, without what MPI says of ranks that end: they say it themselves, or `launch` does."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        beside = threading.Thread(target=_pass_on, args=(process.stdout, sys.stdout.buffer))
        beside.start()
        _pass_on(process.stderr, sys.stderr.buffer)
        beside.join()
    return process.returncode


def _pass_on(lines: Iterable[bytes], out: BinaryIO) -> None:
    for line in lines:
        if not ABORT.match(line) and not BOX.match(line.rstrip()):
            out.write(line)
            out.flush()


def mpiexec() -> str:
    """The mpiexec beside this Python, or else the one on the path.

    Raises:
        RankError: there is none.

    """
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        where = "neither beside this Python nor on the PATH"
        raise RankError(f"--ranks: mpiexec is {where}; {missing('mpich')}")
    return found


def is_first(folder: str) -> bool:
    """Whether this rank is the first to have something to say about a failure."""
    try:
        Path(folder, "failed").touch(exist_ok=False)
    except OSError:
        return False
    return True


def world() -> Any:
    """The communicator of all ranks, in a process that :func:`launch` started.

    Raises:
        RankError: mpi4py finds no MPI library.

    """
    try:
        from mpi4py import MPI  # noqa: PLC0415  importing it initialises MPI
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RankError(f"mpi4py cannot start ({reason}): {missing('mpich')}") from error
    return MPI.COMM_WORLD


def meet(comm: Any) -> None:
    """Wait for all ranks without taking a core from those who work."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(2e-4)
