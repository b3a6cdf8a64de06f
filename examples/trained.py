"""Train the networks that other studies convert, each once: seconds on one core, test accuracy.

    python examples/trained.py --cache trained --seeds 3

ResNets of 56, 164, 326 and 650 layers, a vision transformer and a VGG-16 learn 5,000 MNIST digits,
a causal language model learns Python's help pages.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from pararealize.explain.table import Table
from studies.labelled import Examples
from studies.running import start
from studies.trained import STUDIES, Trained, trained


def guessing(data: Examples) -> float:
    """Perplexity on the test labels of how often each class occurs in training."""
    labels = data.train_labels.flatten()
    # One more of each, for a class that training never shows.
    counts = torch.bincount(labels, minlength=int(data.test_labels.max()) + 1) + 1
    return math.exp(-(counts / counts.sum()).log()[data.test_labels].mean().item())


def table(runs: dict[str, list[Trained]]) -> Table:
    """One row a network; perplexities beside those of guessing by frequency alone."""
    columns = ("network", "seconds", "test accuracy, %", "perplexity", "guessing")
    rows = [
        (
            name,
            _list([one.seconds for one in seeds], ".0f"),
            _list([100 * one.accuracy for one in seeds], ".1f"),
            _list([math.exp(one.loss) for one in seeds], ".2f"),
            f"{guessing(seeds[0].data):.1f}",
        )
        for name, seeds in runs.items()
    ]
    return Table("Trained networks, one figure a seed", columns, rows, left=("network",))


def _list(values: Sequence[float], form: str) -> str:
    each = ", ".join(f"{value:{form}}" for value in values)
    return f"{each}: {statistics.mean(values):{form}}" if len(values) > 1 else each


def main() -> None:
    """Train or read back; seeds go last, so that every network is there early."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of weights and figures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(STUDIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [options.only] if options.only else list(STUDIES)
    runs: dict[str, list[Trained]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            one = trained(name, seed, options.cache)
            runs[name].append(one)
            print(
                f"{name}, seed {seed}: {one.seconds:.0f} s, accuracy {one.accuracy:.1%}, "
                f"perplexity {math.exp(one.loss):.2f}"
            )
    print(table(runs))


if __name__ == "__main__":
    start(main)
