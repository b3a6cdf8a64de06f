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
from collections.abc import Callable

import torch
from depth import BATCH, gradients, network
from torch import Tensor, nn

from pararealize import MGRIT, capture_step
from pararealize.cost.measure import medians
from pararealize.explain.table import Table
from studies.running import needs_device, start, timed_anyway


def loss(output: Tensor) -> Tensor:
    return output.pow(2).mean()


def eager(net: nn.Module, x: Tensor) -> Callable[[], object]:
    """A step as it is usually written."""

    def step() -> None:
        net.zero_grad()
        torch.autograd.backward(loss(net(x)))

    return step


def captured(net: nn.Module, x: Tensor) -> Callable[[], object]:
    step = capture_step(net, loss, (x,))
    return lambda: step(x)


def waited(step: Callable[[], object]) -> Callable[[], None]:
    """The step, and the wait for the device."""

    def call() -> None:
        step()
        torch.cuda.synchronize()

    return call


def compiled_with(model: nn.Module, x: Tensor, slices: int, batched: str) -> nn.Module:
    """MGRIT, its slices advanced at once or each on a stream of its own."""
    layers = len(model.get_submodule("steps"))  # type: ignore[arg-type]
    method = MGRIT(coarsening=layers // slices, coarse="rediscretized", batched=batched)  # type: ignore[arg-type]
    return timed_anyway(model, slices, method=method, example_inputs=(x,))


def measured(width: int, depth: int, slices: int, rounds: int) -> tuple[str, ...]:
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
    wait = torch.cuda.synchronize
    seconds = medians(*(waited(step) for step in steps), runs=rounds, before=wait)
    wanted = gradients(serial)
    error = float((gradients(net) - wanted).norm() / wanted.norm())
    return (str(width), str(depth), *(f"{time * 1e3:.2f}" for time in seconds), f"{error:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--depths", type=int, nargs="+", default=[128, 512, 1024, 4096])
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    needs_device("cuda")
    ways = ("eager", "CUDA graph", "torch.compile", "batch", "streams")
    title = f"ms a step, {options.slices} slices, {torch.cuda.get_device_name()}"
    rows = [
        measured(width, depth, options.slices, options.rounds)
        for width in options.widths
        for depth in options.depths
    ]
    print(Table(title, ("width", "depth", *ways, "error"), rows))


if __name__ == "__main__":
    start(main)
