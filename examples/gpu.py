"""One CUDA device: a training step with slices side by side, captured whole, against serial ones.

    python examples/gpu.py --widths 16 64 256 --depths 128 1024 4096

A chain x + dt tanh(W x + b), batch 200, with weights that are smooth in depth (examples/depth.py).
Milliseconds of zero_grad, forward and backward pass: of the eager serial network, of the serial
step in a CUDA graph, of torch.compile, and of MGRIT in a CUDA graph, its slices as a batch over
depth or on a stream each; medians of rounds in which all take turns. The gradient error is a
relative 2-norm against serial. Without a CUDA device it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median

import torch
from depth import BATCH, gradients, network
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pararealize import MGRIT, SlowerThanSerialWarning, pararealize
from pararealize.runtime.runners.capture import Captured


def loss(output: Tensor) -> Tensor:
    return output.pow(2).mean()


def eager(net: nn.Module, x: Tensor) -> Callable[[], object]:
    """A step as it is usually written."""

    def step() -> None:
        net.zero_grad()
        torch.autograd.backward(loss(net(x)))

    return step


def captured(net: nn.Module, x: Tensor) -> Callable[[], object]:
    step = Captured(net, loss, [x])
    return lambda: step(x)


def milliseconds(steps: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Medians, each step waited for."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds + 1):
        for step, found in zip(steps, times, strict=True):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            step()
            torch.cuda.synchronize()
            found.append((time.perf_counter() - begin) * 1e3)
    return [median(found[1:]) for found in times]


def compiled_with(model: nn.Module, x: Tensor, slices: int, batched: str) -> nn.Module:
    """MGRIT, its slices advanced at once or each on a stream of its own."""
    layers = len(model.get_submodule("steps"))  # type: ignore[arg-type]
    method = MGRIT(coarsening=layers // slices, coarse="rediscretized", batched=batched)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowerThanSerialWarning)  # it is measured
        return pararealize(model, slices, method=method, example_inputs=(x,))


def run(width: int, depth: int, slices: int, rounds: int) -> tuple[str, ...]:
    """A row of the table."""
    serial, x = network(width, depth).cuda(), torch.randn(BATCH, 2).cuda()
    net = compiled_with(serial, x, slices, "always")
    streams = compiled_with(network(width, depth).cuda(), x, slices, "never")
    graphed, compiled = network(width, depth).cuda(), network(width, depth).cuda()
    steps = [
        eager(serial, x),
        captured(graphed, x),
        eager(torch.compile(compiled), x),  # type: ignore[arg-type]
        captured(net, x),
        captured(streams, x),
    ]
    found = milliseconds(steps, rounds)
    wanted = gradients(serial)
    error = float((gradients(net) - wanted).norm() / wanted.norm())
    return (str(width), str(depth), *(f"{time:.2f}" for time in found), f"{error:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--depths", type=int, nargs="+", default=[128, 512, 1024, 4096])
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("This study needs a CUDA device, and this PyTorch sees none.\n")
        raise SystemExit(2)
    columns = (
        "width",
        "depth",
        "eager",
        "CUDA graph",
        "torch.compile",
        "batch",
        "streams",
        "error",
    )
    title = f"ms a step, {options.slices} slices, {torch.cuda.get_device_name()}"
    table = Table(*columns, title=title)
    for width in options.widths:
        for depth in options.depths:
            table.add_row(*run(width, depth, options.slices, options.rounds))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
