"""Train one network on several ranks, as any network is trained.

    mpiexec -n 2 python -m mpi4py examples/ranks.py
    torchrun --nproc-per-node 2 examples/ranks.py --engine gloo

Every rank runs this script with the same data, holds its own subnetworks, and gets the same loss.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

from pararealize import models, pararealize
from pararealize.cli.digits import load_digits, smaller
from pararealize.cli.launch import world
from studies.running import start


def communicator(engine: str) -> Any:
    """What connects the ranks."""
    if engine == "mpi":
        return world()
    dist.init_process_group(engine)
    return dist.group.WORLD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("mpi", "gloo", "nccl"), default="mpi")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", default="ranks-output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    comm = communicator(options.engine)
    digits = smaller(load_digits(), 2)
    size = comm.size if options.engine == "mpi" else dist.get_world_size()
    net = pararealize(models.resnet(56, channels=1, width=8), max(2, size), comm=comm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    begin = time.perf_counter()
    for epoch in range(options.epochs):
        order = torch.randperm(len(digits.train_labels))  # the same on every rank: one seed
        for chosen in order.split(100):
            loss = functional.cross_entropy(
                net(digits.train_images[chosen]), digits.train_labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            net.clip_grad_norm_(5.0)
            optimizer.step()
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: loss {loss.item():.4f} after {seconds:.0f} s", flush=True)
    net.save(options.out)  # a file of weights for every rank; load() takes any number of ranks


if __name__ == "__main__":
    start(main)
