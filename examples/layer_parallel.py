"""Train a layer-parallel network on digits, written as for TorchBraid.

    python examples/layer_parallel.py
    mpiexec -n 2 python -m mpi4py examples/layer_parallel.py --local-steps 16

Every rank holds its own steps, and the opening and closing layers, which are alike on all ranks.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize.cli.digits import Digits, load_digits
from pararealize.cli.launch import world
from pararealize.layers import LayerParallel
from studies.running import start


class StepLayer(nn.Module):
    """The right-hand side of one step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of the same shape."""
        return torch.tanh(self.linear(x))


class ParallelNet(nn.Module):
    """Opening layer, layer-parallel steps, closing layer."""

    def __init__(self, pixels: int, width: int, local_steps: int, horizon: float) -> None:
        super().__init__()
        self.opening = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width))
        self.parallel = LayerParallel(
            world(),
            lambda: StepLayer(width),
            local_steps,
            horizon,
            max_levels=2,
            max_iters=1,
            cfactor=8,
            num_relax=0,
            coarse="mean",  # of dense layers, better than TorchBraid's "rediscretized"
        )
        self.closing = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images to the logits of ten digits."""
        logits: Tensor = self.closing(self.parallel(self.opening(images)))
        return logits


def train_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, digits: Digits) -> float:
    """The mean loss; every rank draws the same batches."""
    losses = []
    for index in torch.randperm(len(digits.train_images)).split(100):
        optimizer.zero_grad()
        logits = net(digits.train_images[index])
        loss = functional.cross_entropy(logits, digits.train_labels[index])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits) -> float:
    hits = net(digits.test_images).argmax(1) == digits.test_labels
    return float(hits.float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local-steps", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same opening and closing layers on every rank
    digits, root = load_digits(), world().rank == 0
    net = ParallelNet(digits.train_images[0].numel(), 64, options.local_steps, 2.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        loss, found = train_epoch(net, optimizer, digits), accuracy(net, digits)
        seconds = time.perf_counter() - began
        if root:
            print(f"epoch {epoch}: loss {loss:.4f}, test accuracy {found:.1%}, {seconds:.1f} s")
    serial = nn.Sequential(net.opening, net.parallel.to_serial(), net.closing)  # all ranks call it
    if root:
        print(f"as a serial network: test accuracy {accuracy(serial, digits):.1%}")
        print(net.parallel.network.plan.verdict)


if __name__ == "__main__":
    start(main)
