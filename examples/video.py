"""Videos told apart: a ResNet's features once per frame, two implicit GRUs over 128 frames.

HMDB51, every video a folder CLASS/VIDEO of its frames, cut or filled up with black to 128 frames
of 64 × 64 pixels:

    python examples/video.py --data hmdb51=FOLDER --limit 400 --weights resnet18.pth

Features are computed once, without gradients, by torchvision's ResNet-18, whose weights are random
unless a file of them is named; the GRUs are trained on them, step by step and solved in slices of
time.

Moon and Cyr, "Parallel Training of GRU Networks with a Multi-Grid Solver for Long Sequences"
(arXiv:2203.04738).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pararealize.cli.zoos import import_torchvision
from pararealize.errors import DataError
from pararealize.explain.table import Table
from studies.datasets import add_data, read
from studies.labelled import Examples
from studies.odenets import AdamRecipe, train
from studies.running import start
from studies.solved import Stacked


def resnet(weights: Path | None) -> tuple[nn.Module, int]:
    """Torchvision's ResNet-18 without its classifier, and how many features it gives."""
    models = import_torchvision()
    torch.manual_seed(0)
    net = models.resnet18(weights=None)
    if weights is not None:
        if not weights.is_file():
            raise DataError(f"{weights} is no file: save torchvision's resnet18 state dict there.")
        net.load_state_dict(torch.load(weights, weights_only=True))
    features = net.fc.in_features
    net.fc = nn.Identity()
    return net.eval(), features


@torch.no_grad()
def seen(net: nn.Module, videos: Tensor, batch: int) -> Tensor:
    """Features ``[count, frames, features]`` of videos ``[count, frames, 3, height, width]``."""
    frames = videos.flatten(0, 1)
    found = torch.cat([net(part) for part in frames.split(batch)])
    return found.unflatten(0, videos.shape[:2])


def features_of(examples: Examples, net: nn.Module, batch: int) -> Examples:
    """Every frame's features in its place, of mean 0 and deviation 1 on the training videos."""
    train_inputs, test_inputs = (
        seen(net, videos, batch) for videos in (examples.train_inputs, examples.test_inputs)
    )
    deviation, mean = torch.std_mean(train_inputs, (0, 1))
    scale = deviation.clamp_min(1e-6)
    return replace(
        examples,
        train_inputs=(train_inputs - mean) / scale,
        test_inputs=(test_inputs - mean) / scale,
    )


def main() -> None:
    """Train the GRUs both ways from the same weights, three seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser, "hmdb51")
    parser.add_argument("--weights", type=Path, help="state dict of torchvision's resnet18")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=64, help="numbers in each hidden state")
    parser.add_argument("--slices", type=int, default=8, help="of time")
    parser.add_argument("--dt", type=float, default=1.0, help="step size")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    videos = read(options.data, limit=options.limit, form="videos")
    net, numbers = resnet(options.weights)
    begin = time.perf_counter()
    examples = features_of(videos, net, 64)
    count, frames = examples.train_inputs.shape[:2]
    print(f"features of {count} videos: {time.perf_counter() - begin:.0f} s", flush=True)
    rows = []
    for label, slices in (("step by step", None), (f"{options.slices} slices", options.slices)):
        accuracies, seconds = [], []
        for seed in options.seeds:
            torch.manual_seed(seed)
            widths = (options.width, options.width)
            gru = Stacked(numbers, widths, examples.classes, dt=options.dt, slices=slices)
            recipe = AdamRecipe(options.epochs, options.batch, 5e-3, seed=seed)
            begin = time.perf_counter()
            outcome = train(gru, examples, recipe)
            seconds.append(time.perf_counter() - begin)
            accuracies.append(100 * outcome.accuracy)
            print(f"{label}, seed {seed}: {accuracies[-1]:.1f}%", flush=True)
        each = ", ".join(f"{value:.1f}" for value in accuracies)
        mean = f"{statistics.mean(accuracies):.2f}"
        rows.append((label, each, mean, f"{statistics.median(seconds):.1f}"))
    weights = "random" if options.weights is None else options.weights.name
    title = f"two implicit GRUs on {frames} frames, ResNet-18 ({weights}): test accuracy, %"
    print(Table(title, ("recurrence", "seeds", "mean", "seconds"), rows, left=("recurrence",)))


if __name__ == "__main__":
    start(main)
