"""Peak memory of one training step: every rank's beside the serial process's.

    python examples/memory.py

Two ranks of ResNet-1001 at batch 16, and the serial network in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource

import torch
from torch.nn import functional

from pararealize import models, pararealize
from pararealize.cli.launch import world
from studies.running import again, start

MIB = 2**20


def resident() -> float:
    """Memory of this process now, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> float:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(batch: int) -> str:
    """The peak of two training steps, and what it was before them, in MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    empty = resident()
    net = models.resnet1001()
    comm = world()
    if comm.size > 1:
        net = pararealize(net, comm.size, example_inputs=(x,), comm=comm, cost="measured")
        gc.collect()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return f"{peak() / MIB:.0f} {(peak() - empty) / MIB:.0f}"


def launch(ranks: int) -> list[tuple[int, int]]:
    """Peak, and peak without Python and torch themselves, of every rank."""
    done = again("--worker", ranks=ranks, allocator="default", heard=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    rows = (line.split() for line in done.stdout.splitlines() if line.strip())
    return [(int(total), int(own)) for total, own in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args()
    if options.worker:
        print(measure(options.batch), flush=True)
        return
    (serial,), ranks = launch(1), launch(options.ranks)
    print(f"ResNet-1001, batch {options.batch}, peak in MiB (without Python and torch)")
    print(f"  serial    {serial[0]:>6} ({serial[1]})")
    for total, own in ranks:
        shares = f"{total / serial[0]:.2f} ({own / serial[1]:.2f}) of serial"
        print(f"  one rank  {total:>6} ({own})   {shares}")


if __name__ == "__main__":
    start(main)
