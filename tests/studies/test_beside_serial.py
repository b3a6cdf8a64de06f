"""Networks beside the serial one: differences seed by seed, and nothing trained twice."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pararealize import models
from pararealize.cli.digits import Digits
from pararealize.cli.training import Recipe
from studies.beside_serial import (
    Score,
    Variant,
    drawn,
    kept,
    options_of,
    price,
    table,
    trained,
)
from studies.loss_curves import draw
from studies.odenets import AdamRecipe

PRICES = {"serial": ("0", "0", "1"), "n = 2": ("9%", "2", "3")}


def digits(count: int = 24) -> Digits:
    """Random images of 8 × 8 pixels whose class is how bright they are."""
    torch.manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 1, 8, 8) / 4 + labels[:, None, None, None] - 1
    return Digits(images, labels, images, labels, "random numbers")


#: Another optimizer, and another number of epochs and batch size.
OTHERS = (AdamRecipe(2, 8), Recipe(3, 10))


def network() -> nn.Module:
    return models.resnet(20, channels=1, width=4, classes=3)


@pytest.mark.parametrize(
    "recipe",
    [Recipe(2, 8, shift=0), *(pytest.param(r, marks=pytest.mark.rest) for r in OTHERS)],
)
def test_a_seed_says_what_a_network_comes_to(recipe: Recipe | AdamRecipe) -> None:
    first, again = (trained(network, Variant(2), digits(), recipe) for _ in range(2))
    assert first == again
    assert len(first.epochs) == recipe.epochs
    assert first != trained(network, Variant(), digits(), recipe)
    other = Variant(2, {"seed": 1})
    assert first != trained(network, other, digits(), recipe)


def test_what_is_known_is_not_trained_again(tmp_path: Path) -> None:
    score = Score(97.5, 0.1, (1.0, 0.5))
    assert kept(tmp_path / "a.json", lambda: score) == score
    assert kept(tmp_path / "a.json", lambda: pytest.fail("trained again")) == score


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds that differ by ten points do not hide that all networks lose one point to serial."""
    serial = [Score(80.0, 0.5, (1.0,)), Score(90.0, 0.3, (1.0,))]
    behind = [Score(79.0, 0.5, (1.0, 0.4)), Score(89.0, 0.4, (1.0, 0.6))]
    shown = table("t", "serial", {"serial": serial, "n = 2": behind}, PRICES).rows
    assert shown[0] == (
        "serial",
        "80.0, 90.0",
        "85.00 ± 7.07",
        "–",
        "0.400",
        "1.000",
        "0",
        "0",
        "1",
    )
    assert shown[1] == (
        "n = 2",
        "79.0, 89.0",
        "84.00 ± 7.07",
        "-1.00 ± 0.00",
        "0.450",
        "0.500",
        "9%",
        "2",
        "3",
    )


def test_of_differences_that_vary_the_error_of_the_mean_is_said() -> None:
    serial = [Score(90.0, 0.0, (0.0,))] * 4
    others = [Score(90.0 + d, 0.0, (0.0,)) for d in (-1.0, 1.0, -1.0, 1.0)]
    rows = table("t", "serial", {"serial": serial, "n = 2": others}, PRICES).rows
    assert rows[1][3] == "+0.00 ± 0.58"  # 2/√3 over √4


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("guess=coarse", {"guess": "coarse"}),
        ("coarse_depth=2,correction=difference", {"coarse_depth": 2, "correction": "difference"}),
        ("coarse_budget=0.5", {"coarse_budget": 0.5}),
    ],
)
def test_options_as_they_are_written(text: str, options: dict[str, object]) -> None:
    assert options_of(text) == options


def test_a_price_is_that_of_the_plan() -> None:
    recipe = Recipe(1, 8)
    net = drawn(network, Variant(2), digits(), recipe)
    serial = drawn(network, Variant(), digits(), recipe)
    added = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in serial.parameters())
    whole = sum(p.numel() for p in serial.parameters())
    assert price(serial) == ("–", "–", "1")
    assert price(net)[0] == f"{100 * added / whole:.1f}%"
    assert price(net)[2] == f"{net.plan.speedup:.2f}"


def test_curves_are_drawn(tmp_path: Path) -> None:
    scores = [Score(80.0, 0.5, (1.0, 0.5)), Score(90.0, 0.3, (1.2, 0.3))]
    draw("t", {"serial": scores, "n = 2": scores[:1]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_variants_say_what_they_are() -> None:
    assert str(Variant()) == "serial"
    assert str(Variant(3, {"guess": "coarse"})) == "n = 3, guess = coarse"
