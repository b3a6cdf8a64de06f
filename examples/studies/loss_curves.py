"""Loss curves: the mean loss of every epoch of a training, by network, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.beside_serial import Score


def draw(title: str, found: Mapping[str, Sequence[Score]], file: Path) -> None:
    """Draw one curve for each network, the mean over its seeds, and between which they lie."""
    from matplotlib import pyplot  # noqa: PLC0415  only where there is a picture

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for label, scores in found.items():
        by_epoch = list(zip(*(score.epochs for score in scores), strict=True))
        epochs = range(1, len(by_epoch) + 1)
        mean = [statistics.mean(losses) for losses in by_epoch]
        (line,) = axes.plot(epochs, mean, label=label)
        low, high = map(min, by_epoch), map(max, by_epoch)
        axes.fill_between(epochs, list(low), list(high), color=line.get_color(), alpha=0.15)
    axes.set(title=title, xlabel="epoch", ylabel="mean loss of training", yscale="log")
    axes.legend()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
