"""Convert trained networks: how often they answer like the serial one, and what says when not.

Coarse networks are fitted to unlabelled training inputs; all figures are of test inputs:

    python examples/convert.py --cache trained --only resnet56 --n 2 4 6 --seeds 3
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pararealize import ParallelNetwork, Parareal, one_gpu, pararealize
from pararealize.cli.comparison import Agreement, Comparison
from pararealize.cli.data import Batches
from pararealize.cli.training import score
from pararealize.explain.table import Table
from studies.labelled import Examples
from studies.running import start
from studies.trained import STUDIES, Trained, depths, trained


@dataclass(frozen=True)
class How:
    """How networks are cut and calibrated.

    Kind, blocks and rank of every coarse network, samples, epochs, samples a step, learning rate;
    named interfaces, or where pieces weigh the same; levels of corrections, and whether pieces and
    predicted times are those of one GPU.
    """

    coarse: str
    depth: int | tuple[int, ...]
    rank: float
    samples: int
    epochs: int
    batch: int
    rate: float
    interfaces: tuple[str, ...] | None = None
    levels: int = 2
    gpu: bool = False


def convert(run: Trained, n: int, how: How) -> tuple[ParallelNetwork, float]:
    """The network in n subnetworks, calibrated for one sweep, and processor seconds that took."""
    inputs = run.data.train_inputs[: how.samples]
    method = Parareal(
        *(how.coarse, "difference"),
        guess="coarse",
        coarse_depth=how.depth,
        coarse_rank=how.rank,
        levels=how.levels,
    )
    net = pararealize(
        *(run.model, n),
        method=method,
        example_inputs=(inputs[:1],),
        interfaces=how.interfaces,
        machine=one_gpu() if how.gpu else None,
    ).eval()
    begin = time.process_time()
    net.calibrate(
        inputs, epochs=how.epochs, batch=how.batch, rate=how.rate, above="exact", progress=False
    )
    return net, time.process_time() - begin


def compare(net: ParallelNetwork, inputs: Tensor, labels: Tensor | None = None) -> Agreement:
    """Its answers to all of the inputs beside those of the serial network."""
    found = Comparison(net).over(Batches("inputs", list(_batches(inputs, labels))))
    assert found is not None
    return found


def _batches(inputs: Tensor, labels: Tensor | None, size: int = 250) -> Iterator[Any]:
    for i in range(0, len(inputs), size):
        part = inputs[i : i + size]
        yield part if labels is None else (part, labels[i : i + size])


@dataclass(frozen=True)
class Sweep:
    """One sweep, whatever the certificate says: mean cross-entropy and accuracy by the labels."""

    loss: float
    accuracy: float

    @classmethod
    def of(cls, net: ParallelNetwork, data: Examples) -> Sweep:
        """On the test data."""
        rule, net.rule = net.rule, None
        try:
            return cls(*score(net, data.test_inputs, data.test_labels))
        finally:
            net.rule = rule


def strange(inputs: Tensor, seed: int) -> dict[str, Tensor]:
    """Inputs of other kinds than those in training: noise, images moved far, images upside down."""
    generator = torch.Generator().manual_seed(seed)
    if not inputs.is_floating_point():
        noise = torch.randint(int(inputs.max()) + 1, inputs.shape, generator=generator)
        return {"random tokens": noise}
    return {
        "noise": torch.randn(inputs.shape, generator=generator),
        "moved": inputs.roll((inputs.shape[-2] // 3, inputs.shape[-1] // 3), (-2, -1)),
        "flipped": inputs.flip(-2),
    }


def row(
    net: ParallelNetwork, name: str, seed: int, run: Trained, seconds: float, found: Agreement
) -> list[str]:
    """A line of the table."""
    once, plan = Sweep.of(net, run.data), net.plan
    shares = [f"{100 * found.sweeps[k].agreement:.2f}" for k in range(3)]
    quality = found.quality
    assert quality is not None
    change = 100 * (once.accuracy - run.accuracy)
    return [
        *(name, str(plan.n), str(plan.method.levels), str(seed), *shares, f"{change:+.2f}"),
        *(f"{100 * quality.coverage:.1f}", f"{quality.correlation:.2f}"),
        *(f"{100 * quality.doubted:.1f}", f"{100 * quality.fallback:.2f}"),
        f"{100 * seconds / run.seconds:.0f}",
        f"{1e3 * plan.serial_seconds:.3f}",
        f"{1e3 * plan.parallel_seconds:.3f}",
    ]


COLUMNS = (
    *("network", "n", "levels", "seed", "0 sweeps", "1", "2", "accuracy"),
    *("covered", "rank corr.", "doubted", "with fallback", "seconds", "serial ms", "one sweep"),
)


def main() -> None:
    """Train or read back, convert, compare; percentages, seconds as a share of the training's.

    "accuracy" is what one sweep adds to it, "with fallback" the agreement where every doubtful
    answer is the serial one; milliseconds are predicted, of parts that are measured here, or with
    --gpu for one GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of trained networks")
    parser.add_argument("--only", choices=sorted(STUDIES), default="resnet56")
    parser.add_argument("--n", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--coarse", choices=["thinned", "stepped", "factored"], default="stepped")
    parser.add_argument("--depth", type=int, nargs="+", default=[1])
    parser.add_argument("--rank", type=float, default=0.25, help="share that factored layers keep")
    parser.add_argument("--interfaces", nargs="+", help="modules to cut after, in place of --n")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--levels", type=int, nargs="+", default=[2], help="of corrections")
    parser.add_argument("--usual", action="store_true", help="no inputs of other kinds")
    parser.add_argument("--gpu", action="store_true", help="cut and predict for one GPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cuts = None if options.interfaces is None else tuple(options.interfaces)
    how = How(
        *(options.coarse, depths(options.depth), options.rank, options.samples),
        *(options.epochs, options.batch, options.rate, cuts),
        gpu=options.gpu,
    )
    counts = options.n if cuts is None else [len(cuts) + 1]
    rows = []
    for seed in options.seeds:
        one = trained(options.only, seed, options.cache)
        for n, levels in product(counts, options.levels):
            net, seconds = convert(one, n, replace(how, levels=levels))
            found = compare(net, one.data.test_inputs, one.data.test_labels)
            rows.append(row(net, options.only, seed, one, seconds, found))
            print(*rows[-1])
            _print_perplexity(one, net)
            others = {} if options.usual else strange(one.data.test_inputs, seed)
            for kind, inputs in others.items():
                _print_strange(kind, compare(net, inputs))
    print(Table("agreement in percent", COLUMNS, rows, left=("network",)).text(140))


def _print_perplexity(run: Trained, net: ParallelNetwork) -> None:
    serial, once = math.exp(run.loss), math.exp(Sweep.of(net, run.data).loss)
    print(f"    perplexity {serial:.3f} serial, {once:.3f} after one sweep")


def _print_strange(kind: str, found: Agreement) -> None:
    quality = found.quality
    assert quality is not None
    print(
        f"    {kind}: one sweep agrees on {found.sweeps[1].agreement:.2%}, doubted "
        f"{quality.doubted:.1%}, with fallback {quality.fallback:.2%}"
    )


if __name__ == "__main__":
    start(main)
