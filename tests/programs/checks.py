"""Run under mpiexec: checks of the other programs, one after another in the same processes.

``checks.py FOLDER NAME... [--all]``, where a name is ``PROGRAM.CHECK@mpi`` or
``PROGRAM.CHECK@gloo``: a function of the program's ``CHECKS``, called with a communicator of all
ranks and a folder. A check that passed leaves ``FOLDER/NAME.passed``; one that did not leaves the
ranks' tracebacks in ``FOLDER/NAME.failed`` and ends all ranks, as what it left undone could reach
into the next one. With ``--all`` random networks are more, ``COUNT`` of the programs that draw.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import sys
import time
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # with the first network on the meta device, else: behind the freezing below
import torch.distributed as dist
from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[1]))

from pararealize.errors import DivergenceWarning, SlowerThanSerialWarning

WORLD = MPI.COMM_WORLD

#: Seconds after which a check hangs: every rank says where, and ends.
LIMIT = 180.0


@cache
def group(folder: Path) -> Any:
    """The process group of all ranks."""
    store = dist.FileStore(str(folder / "store"), WORLD.size)
    dist.init_process_group("gloo", store=store, rank=WORLD.rank, world_size=WORLD.size)
    return dist.group.WORLD


def find(program: str, name: str) -> Any:
    found = importlib.import_module(program).CHECKS
    return next(check for check in found if check.__name__ == name)


def run(name: str, folder: Path) -> None:
    """One check, on all ranks."""
    path, kind = name.split("@")
    own = folder / name
    own.mkdir(exist_ok=True)
    comm = WORLD if kind == "mpi" else group(folder)
    torch.manual_seed(0)
    begin = time.monotonic()
    try:
        find(*path.split("."))(comm, str(own))
    except BaseException:
        with (folder / f"{name}.failed").open("a") as file:
            file.write(f"rank {WORLD.rank} of {WORLD.size}: {traceback.format_exc()}\n")
        raise
    WORLD.Barrier()
    if WORLD.rank == 0:
        (folder / f"{name}.passed").touch()
        print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    for kind in (SlowerThanSerialWarning, DivergenceWarning):
        warnings.simplefilter("ignore", kind)
    torch.set_num_threads(1)
    gc.freeze()  # every compile on ranks collects garbage, and would look through all of torch
    for name in (each for each in sys.argv[2:] if each != "--all"):
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        run(name, folder)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
