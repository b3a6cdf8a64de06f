"""Launch: a command of this package on several ranks, under the environment's own mpiexec."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pararealize.errors import MethodError, RankError

#: What glibc's allocator is told. ``heap`` keeps large blocks on the heap instead of giving them
#: back to the system after every use: page faults cost more than many a layer.
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "heap": {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(64 << 30)},
}
#: How mpiexec ends where a rank was killed.
KILLED = (9, 137, -9)
#: What MPI adds when a rank ends all others.
ABORT = re.compile(rb"Abort\(\d+\) on node \d+|application called MPI_Abort")

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
    if code in KILLED:
        print(f"pararealize: {was_killed(ranks)}", file=sys.stderr)
    return code


def was_killed(ranks: int) -> str:
    """What to say where the system ended a rank."""
    return (
        "a rank was killed by the system (signal 9), which mostly means that memory ran out: take "
        f"fewer than {ranks} ranks, a smaller batch, or a machine with more of it."
    )


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it, without what MPI says of ranks that have said themselves why they end."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if not ABORT.match(line):
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
    return process.returncode


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
