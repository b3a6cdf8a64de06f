"""Four chains of residual layers, layer-parallel on ranks: error and speed beside serial PyTorch.

    python examples/chains.py --ranks 2 --rounds 5

Layers have distinct default-initialised weights, x + dt relu(conv(relu(conv x))) on 32 x 32 images
or x + dt tanh(W x + b), with dt = 1 / layers; the loss is the mean square of the output. Errors
are relative 2-norms of the output and of the gradient of all weights; speeds are medians of the
ratios of every round, in which all variants take turns. Ranks have one thread each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from pararealize import MGRIT
from pararealize.cli.launch import meet, world
from pararealize.cli.variants import threads as threads_are
from pararealize.cost.measure import turns
from pararealize.explain.table import Table
from pararealize.layers.parallel import chain_of
from pararealize.models.odenet import ConvStep, DenseStep
from studies.running import again, start, timed_anyway


@dataclass(frozen=True)
class Case:
    """A chain, what stands for its intervals, and the cycles forward and back."""

    name: str
    kind: str
    width: int
    layers: int
    batch: int
    coarsening: int
    coarse: str
    cycles: tuple[int, int]


CASES = (
    Case("conv16", "conv", 16, 64, 32, 8, "rediscretized", (1, 1)),
    Case("conv16", "conv", 16, 64, 32, 8, "mean", (2, 1)),
    Case("conv32", "conv", 32, 128, 32, 16, "rediscretized", (1, 1)),
    Case("dense64", "dense", 64, 256, 256, 16, "mean", (1, 1)),
    Case("dense512", "dense", 512, 128, 256, 16, "mean", (1, 1)),
)


def chain(case: Case) -> tuple[nn.Module, Tensor]:
    """The chain and a batch for it."""
    torch.manual_seed(0)
    kind = ConvStep if case.kind == "conv" else DenseStep
    steps = nn.Sequential(*(kind(case.width, 1 / case.layers) for _ in range(case.layers)))
    shape = (case.width, 32, 32) if case.kind == "conv" else (case.width,)
    return chain_of(steps), torch.randn(case.batch, *shape)


def step(net: nn.Module, x: Tensor) -> Tensor:
    """The output, after a backward pass."""
    net.zero_grad()
    output: Tensor = net(x)
    torch.autograd.backward(output.pow(2).mean())
    return output.detach()


def relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Of all tensors together, the 2-norm of the difference over that of what is wanted."""
    pairs = zip(found, wanted, strict=True)
    off = sum(float((a - b).double().norm() ** 2) for a, b in pairs)
    size = sum(float(b.double().norm() ** 2) for b in wanted)
    return float((off / size) ** 0.5)


def together(
    work: Callable[[], Any], comm: Any, threads: int = 1, *, alone: bool = False
) -> Callable[[], None]:
    """The work of all ranks until they are through; ``alone``, only rank 0 works."""

    def call() -> None:
        with threads_are(threads):
            if comm.rank == 0 or not alone:
                work()
            meet(comm)

    return call


def measured(case: Case, comm: Any, rounds: int) -> tuple[str, ...]:
    """A row of the table."""
    model, x = chain(case)
    forward, back = case.cycles
    method = MGRIT(
        coarsening=case.coarsening,
        coarse=case.coarse,
        forward_cycles=forward,
        backward_cycles=back,
    )
    net = timed_anyway(model, comm.size, method=method, example_inputs=(x,), comm=comm)
    wanted, found = step(model, x), step(net, x)
    own = dict(model.named_parameters())
    mine = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    parts = comm.allgather({name: gradient.numpy() for name, gradient in mine.items()})
    grads = {name: torch.from_numpy(g) for part in parts for name, g in part.items()}
    exact = [own[name].grad for name in grads]
    *serial, ours = turns(
        together(lambda: step(model, x), comm, alone=True),
        together(lambda: step(model, x), comm, comm.size, alone=True),
        together(lambda: step(net, x), comm),
        runs=rounds,
        before=lambda: meet(comm),
    )
    ratios = [
        median(theirs / mine for theirs, mine in zip(times, ours, strict=True)) for times in serial
    ]
    return (
        f"{case.name}, {case.layers} layers, batch {case.batch}, c = {case.coarsening}",
        case.coarse,
        f"{forward}/{back}",
        f"{relative([found], [wanted]):.2g}",
        f"{relative(list(grads.values()), [g for g in exact if g is not None]):.2g}",
        f"{median(ours) * 1e3:.0f}",
        *(f"{ratio:.2f}x" for ratio in ratios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="names of chains")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.worker:
        raise SystemExit(again("--worker", ranks=options.ranks).returncode)
    torch.set_num_threads(1)
    comm = world()
    columns = ("chain", "coarse", "cycles", "error", "of gradient", "ms", "1 thread", "all threads")
    rows = []
    for case in CASES:
        if not options.only or case.name in options.only:
            rows.append(measured(case, comm, options.rounds))
    if comm.rank == 0:
        title = f"{comm.size} ranks x 1 thread; heap allocator for all"
        print(Table(title, columns, rows, left=columns[:2]).text(120))


if __name__ == "__main__":
    start(main)
