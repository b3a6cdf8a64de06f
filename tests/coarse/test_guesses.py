"""Which networks guess states: the best that costs a small share of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pararealize import load, pararealize
from pararealize.coarse import guesses
from pararealize.models import resnet
from pararealize.propagators.guess_networks import MAPS

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet(56, width=8)


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def kinds(share: float, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(guesses, "GUESS_SHARE", share)
    plan = pararealize(model(), 4, example_inputs=(images(),), verify=False).plan
    return [piece.guess for piece in plan.pieces[1:]]


def test_the_best_is_taken_that_is_cheap_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    best, middle, cheapest = MAPS
    assert set(kinds(1.0, monkeypatch)) == {best}
    assert set(kinds(0.0, monkeypatch)) == {cheapest}
    between = {kind for share in (0.02, 0.04, 0.08) for kind in kinds(share, monkeypatch)}
    assert middle in between


def test_guesses_cost_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "GUESS_SHARE", 0.05)
    plan = pararealize(model(), 4, example_inputs=(images(),), verify=False).plan
    for piece in plan.pieces[1:]:
        share = 0.05 * (guesses.BEST if piece.guess == "convolutions" else 1.0)
        assert piece.guess == "patches" or piece.guess_seconds <= share * plan.serial_seconds


@pytest.mark.parametrize("kind", MAPS)
def test_a_saved_network_keeps_its_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = {"convolutions": 1.0, "few convolutions": 0.04, "patches": 0.0}[kind]
    monkeypatch.setattr(guesses, "GUESS_SHARE", share)
    net = pararealize(model(), 3, example_inputs=(images(),), verify=False).eval()
    assert kind in {piece.guess for piece in net.plan.pieces}
    net.save(tmp_path / "net")
    monkeypatch.setattr(guesses, "GUESS_SHARE", 1.0 - share)
    again = load(tmp_path / "net", model()).eval()
    assert [p.guess for p in again.plan.pieces] == [p.guess for p in net.plan.pieces]
    x = images()
    assert torch.equal(again(x), net(x))
