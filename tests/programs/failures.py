"""Something fails on one rank. ``failures.py KIND mpi|gloo FOLDER [RANK SIZE]``

Under mpiexec, or as processes that are told their place.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from failing import Fails
from torch import Tensor, nn

from pararealize import Parareal, pararealize
from pararealize.errors import SlowerThanSerialWarning

KIND, TRANSPORT, FOLDER, *PLACE = sys.argv[1:]
if PLACE:
    RANK, SIZE = map(int, PLACE)
else:
    from mpi4py import MPI

    RANK, SIZE = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
LAST = SIZE - 1


@dataclass
class Trouble:
    """A hook on a layer, which fails as ``kind`` says."""

    kind: str = ""

    def __call__(self, _layer: nn.Module, _inputs: Any, y: Tensor) -> Tensor:
        match self.kind:
            case "forward":
                raise ValueError("no way on")
            case "backward":
                return Fails.apply(y)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(60)
        return y


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)))


def compiled(n: int, comm: Any) -> tuple[nn.Module, Trouble]:
    net = pararealize(build(), n, method=Parareal(), example_inputs=(torch.ones(2, 4),), comm=comm)
    trouble = Trouble()
    own = [m for name, m in net.named_modules() if name in {"1.0", "4.0"}]
    for layer in own:
        layer.register_forward_hook(trouble)
    return net, trouble


def step(net: nn.Module, x: Tensor) -> None:
    net(x).sum().backward()


def run(kind: str, comm: Any) -> None:
    net, trouble = compiled(SIZE, comm)
    step(net, torch.ones(2, 4))
    x = torch.ones(2, 4)
    here = RANK == LAST
    match kind:
        case "user" if here:
            raise KeyError("the user's own mistake")
    if here:
        trouble.kind = kind
    step(net, x)
    if kind == "interrupt":
        print("ready", flush=True)
        trouble.kind = "slow" if here else ""
    step(net, x)


def communicator() -> Any:
    if TRANSPORT == "mpi":
        return MPI.COMM_WORLD
    store = dist.FileStore(f"{FOLDER}/store", SIZE)
    dist.init_process_group("gloo", store=store, rank=RANK, world_size=SIZE)
    return dist.group.WORLD


if __name__ == "__main__":
    warnings.simplefilter("ignore", SlowerThanSerialWarning)
    torch.set_num_threads(1)
    run(KIND, communicator())
