"""Ranks that share a CUDA device, or have one each: pieces as graphs, beside one process.

    torchrun --nproc-per-node 2 examples/gpu_ranks.py
    torchrun --nproc-per-node 2 examples/gpu_ranks.py --device cpu --tiny   # a rehearsal

Milliseconds of a training step of ResNet-1001, medians: on ranks over gloo as it is called, and
with a graph of each piece's forward and backward pass; and on rank 0 alone, while the others wait,
the serial network in a CUDA graph and the subnetworks on streams in one. On a CPU the times mean
nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from pararealize import Rehearsal, capture_step
from pararealize.cost.measure import medians
from pararealize.explain.table import Table
from pararealize.models import resnet
from studies.running import needs_device, start, timed_anyway


def stepped(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step as it is usually written."""

    def step() -> None:
        net.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(x), y))

    return step


def ways(options: argparse.Namespace, kind: str) -> dict[str, Callable[[], object]]:
    """Steps by name; those of one process come last, on rank 0."""
    torch.manual_seed(0)
    size = 16 if options.tiny else 32
    x = torch.randn(options.batch, 3, size, size, device=kind)
    y = torch.randint(0, 10, (options.batch,), device=kind)
    device = None if options.device == "cuda" else Rehearsal()

    def network(n: int, **more: Any) -> nn.Module:
        torch.manual_seed(0)
        model = resnet(20, width=4) if options.tiny else resnet(1001)
        model = model.to(kind)
        return timed_anyway(model, n, example_inputs=(x,), **more).to(kind) if n else model

    def captured(net: nn.Module) -> Callable[[], object]:
        step = capture_step(net, functional.cross_entropy, (x, y), device=device)
        return lambda: step(x, y)

    group = dist.group.WORLD
    found: dict[str, Callable[[], object]] = {
        "ranks, eager": stepped(network(options.count, comm=group), x, y),
        "ranks, pieces as graphs": captured(network(options.count, comm=group)),
    }
    if dist.get_rank() == 0:
        found["one process, serial graph"] = captured(network(0))
        found["one process, lanes"] = captured(network(options.count))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    needs_device(options.device)
    if "RANK" not in os.environ:
        sys.stderr.write("Start it on ranks: torchrun --nproc-per-node 2 examples/gpu_ranks.py\n")
        raise SystemExit(2)
    dist.init_process_group("gloo")
    kind = options.device
    if kind == "cuda":
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
        kind = f"cuda:{torch.cuda.current_device()}"
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    rows = []
    for name, step in ways(options, kind).items():

        def call(step: Callable[[], object] = step) -> None:
            step()
            wait()

        (seconds,) = medians(call, runs=options.rounds)
        rows.append((name, f"{seconds * 1e3:.3g}"))
    if dist.get_rank() == 0:
        title = f"a training step, batch {options.batch}, ms, {dist.get_world_size()} ranks"
        print(Table(title, ("way", "ms"), rows), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    start(main)
