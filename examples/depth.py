"""Depth as a batch on one device: a long thin chain, serial and with its slices side by side.

    python examples/depth.py --widths 8 64 --layers 1024 --slices 32 --threads 2

A chain x + dt tanh(W x + b) between a linear opening and closing, batch 200, with weights that
change smoothly along the depth (six cosine modes), on [0, 5]. Gradient errors are relative
2-norms against serial; speeds are medians of the ratios of rounds in which both take turns, of
an optimizer's zero_grad, forward and backward pass.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from pararealize import MGRIT
from pararealize.cost.measure import turns
from pararealize.explain.table import Table
from pararealize.models import odenet
from studies.running import again, start, timed_anyway

HORIZON, BATCH, MODES = 5.0, 200, 6


def network(width: int, layers: int) -> nn.Module:
    """A chain whose weights are smooth in depth."""
    torch.manual_seed(0)
    net = odenet(layers, width=width, horizon=HORIZON, in_features=2, classes=5)
    at = torch.linspace(0, torch.pi, layers)
    with torch.no_grad():
        for name in ("weight", "bias"):
            shape = getattr(net.steps[0].linear, name).shape
            modes = [torch.randn(shape) for _ in range(MODES)]
            for t, step in zip(at, net.steps, strict=True):
                smooth = sum(torch.cos(k * t) * mode for k, mode in enumerate(modes))
                getattr(step.linear, name).copy_(smooth / width**0.5)
    return net


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """What is timed."""
    optimizer.zero_grad()
    torch.autograd.backward(net(x).pow(2).mean())


def gradients(net: nn.Module) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def measured(width: int, layers: int, slices: int, coarse: str, rounds: int) -> tuple[str, ...]:
    """A row of the table."""
    serial, x = network(width, layers), torch.randn(BATCH, 2)
    method = MGRIT(coarsening=layers // slices, coarse=coarse, batched="fastest")
    net = timed_anyway(serial, slices, method=method, example_inputs=(x,))
    both = [
        partial(step, module, torch.optim.SGD(module.parameters(), lr=0.0), x)
        for module in (serial, net)
    ]
    for call in both:
        call()
    wanted, found = gradients(serial), gradients(net)
    error = float((found - wanted).norm() / wanted.norm())
    times = turns(*both, runs=rounds)
    chosen = "batch over depth" if net.plan.stacks else "serial"
    medians = [f"{median(seconds) * 1e3:.0f}" for seconds in times]
    speed = f"{median(theirs / own for theirs, own in zip(*times, strict=True)):.2f}x"
    return (str(width), str(layers), coarse, chosen, f"{error:.1%}", *medians, speed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--layers", type=int, nargs="+", default=[1024])
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--coarse", default="rediscretized")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.worker:  # the allocator is told when a process starts
        raise SystemExit(again("--worker").returncode)
    torch.set_num_threads(options.threads)
    columns = ("width", "layers", "coarse", "chosen", "gradient error", "serial, ms", "ours, ms")
    title = f"{options.slices} slices, {options.threads} threads, heap allocator"
    rows = [
        measured(width, layers, options.slices, options.coarse, options.rounds)
        for width in options.widths
        for layers in options.layers
    ]
    print(Table(title, (*columns, "speed"), rows, left=("coarse", "chosen")))


if __name__ == "__main__":
    start(main)
