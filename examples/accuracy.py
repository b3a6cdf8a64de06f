"""Test accuracy of parareal networks beside the serial one: same epochs, batches and weights.

A ResNet-56 with n = 2, 3, 6 and a VGG-11 with n = 3 on 5,000 MNIST digits, three seeds:

    python examples/accuracy.py

Figure 2 of the paper on parareal networks, at 110 layers, loss curves drawn:

    python examples/accuracy.py --only "ResNet-110, strided" --epochs 10 --picture curves.png

How they are in the first epochs, by the defaults ('') and with other options of the method:

    python examples/accuracy.py --only ViT-8 --epochs 3 10 --options '' guess=coarse,coarse_depth=2

On other images, as CIFAR-10 in a folder: ``--data cifar10=FOLDER``.
"""

from __future__ import annotations

import argparse
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pararealize import models
from pararealize.cli.digits import smaller
from pararealize.cli.training import Recipe
from pararealize.explain.table import Table
from studies.beside_serial import Score, Variant, drawn, kept, options_of, price, table, trained
from studies.datasets import add_data, read
from studies.fitted import fitted
from studies.labelled import Examples
from studies.loss_curves import draw
from studies.odenets import AdamRecipe
from studies.running import start


@dataclass(frozen=True)
class Study:
    """A network, the numbers of subnetworks to try, and how all of them are trained.

    ``pooling`` is the side of the squares of pixels that are averaged first, to save time.
    """

    make: Callable[[], nn.Module]
    counts: tuple[int, ...]
    pooling: int
    recipe: Recipe | AdamRecipe


def strided(depth: int) -> nn.Module:
    """A ResNet whose stem halves the image: a third of the time."""
    net = models.resnet(depth, channels=1, width=8)
    net.conv1.stride = (2, 2)
    return net


STUDIES = {
    "ResNet-56": Study(
        lambda: models.resnet(56, channels=1, width=8),
        (2, 3, 6),
        2,
        Recipe(epochs=20, batch=100),
    ),
    "VGG-11": Study(
        lambda: models.vgg11(channels=1, classes=10, head="small", width=16, batch_norm=True),
        (3,),
        1,
        Recipe(epochs=12, rate=0.1, shift=2),
    ),
    "VGG-16": Study(
        lambda: models.vgg16(channels=1, classes=10, head="small", width=16, batch_norm=True),
        (3,),
        1,
        Recipe(epochs=12, batch=100, rate=0.05, shift=2),
    ),
    "ResNet-56, batches of 50": Study(
        lambda: models.resnet(56, channels=1, width=8), (2, 3, 6), 2, Recipe()
    ),
    "ResNet-29, strided": Study(lambda: strided(29), (2, 3, 6), 2, Recipe()),
    "ResNet-110, strided": Study(lambda: strided(110), (3, 6, 12, 18), 2, Recipe()),
    "ViT-8": Study(
        lambda: models.vit(8, width=32, heads=4, patch=7, size=14),
        (2, 4),
        2,
        AdamRecipe(epochs=3, batch=50, rate=3e-3, shift=1),
    ),
}


#: What runs where none is named.
USUAL = ["ResNet-56", "VGG-11"]


def compared(
    name: str,
    epochs: int,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    out: Path,
    examples: Examples,
    picture: Path | None = None,
) -> Table:
    """Train what no file has, and put all beside the serial network."""
    study, found = STUDIES[name], dict[str, list[Score]]()
    digits = smaller(examples.as_digits(out.name), study.pooling)
    make = fitted(study.make, Examples.of_digits(digits))
    for seed in seeds:
        recipe = replace(study.recipe, seed=seed, epochs=epochs)
        for variant in variants:
            compute = partial(trained, make, variant, digits, recipe)
            score = kept(out / f"{name}, {epochs} epochs, seed {seed}, {variant}.json", compute)
            print(f"{name}, {epochs} epochs, seed {seed}, {variant}: {score.accuracy:.1f}%")
            found.setdefault(str(variant), []).append(score)
    nets = (drawn(make, variant, digits, study.recipe) for variant in variants)
    prices = {str(variant): price(net) for variant, net in zip(variants, nets, strict=True)}
    if picture:
        draw(f"{name}: loss of training, {len(seeds)} seeds", found, picture)
    return table(f"{name}: test accuracy, %, {epochs} epochs", str(variants[0]), found, prices)


def main() -> None:
    """Run the studies; every network's result is kept in a file and not computed again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=sorted(STUDIES), nargs="+", default=USUAL)
    parser.add_argument("--epochs", type=int, nargs="+", help="in place of the studies' own")
    parser.add_argument(
        "--counts", type=int, nargs="+", help="subnetworks, in place of the studies'"
    )
    parser.add_argument(
        "--options",
        type=options_of,
        nargs="+",
        default=[{}],
        help="of Parareal, as guess=coarse,correction=difference; '' are the defaults",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("accuracy"), help="folder of results")
    parser.add_argument("--picture", type=Path, help="a file to draw the loss of training into")
    add_data(parser, "digits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = read(options.data, limit=options.limit, form="images")
    data, most = options.data.partition("=")[0], options.limit
    # Results of other examples are others.
    if (data, most) != ("digits", None):
        options.out = options.out / (data if most is None else f"{data} {most}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        study = STUDIES[name]
        counts = options.counts or study.counts
        variants = [Variant(), *(Variant(n, given) for n in counts for given in options.options)]
        for epochs in options.epochs or [study.recipe.epochs]:
            seeds, out, picture = options.seeds, options.out, options.picture
            print(compared(name, epochs, variants, seeds, out, examples, picture))


if __name__ == "__main__":
    start(main)
