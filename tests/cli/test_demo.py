"""The demo: what it says of accuracy, and that the commands it runs on ranks are commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize import Rehearsal
from pararealize.cli import demonstrated, demonstration
from pararealize.cli.demonstration import Demo, DemoRow, table
from pararealize.cli.digits import Digits, load_digits
from pararealize.cli.main import main
from pararealize.cli.seeds import Found, Run, runs, train_all
from pararealize.cli.terminal import Printer
from pararealize.cli.training import Recipe, TrainingOutcome, predict
from pararealize.errors import RankError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def row(name: str, *right: int, of: int = 1000) -> DemoRow:
    """Of every seed so many digits right, the first ones."""
    found = []
    for seed, count in enumerate(right):
        run = Run(0 if name == "serial" else 2, seed, (20, 4), Recipe())
        outcome = TrainingOutcome((1.0, 0.5), 0.5, count / of)
        found.append(Found(run, outcome, torch.arange(of) < count, None, {}))
    return DemoRow(tuple(found))


def test_accuracy_has_an_interval_and_its_seeds() -> None:
    text = table([row("serial", 960, 970, 965)], "trained").text(120)
    assert "seeds 0, 1, 2" in text
    assert "96.0%, 97.0%, 96.5%" in text
    assert "95.2% – 97.5%" in text


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ([965], "+0.0 points beside serial, one seed, on the same 1,000 digits (+0.0 to +0.0"),
        (
            [963],
            "-0.2 points beside serial, one seed, on the same 1,000 digits (-0.5 to +0.1 with 95% "
            "confidence), which is noise.",
        ),
        ([900], "which is more than noise."),
        # differences of 1, 2 and -6 in a thousand: mean -1, deviation 4.36, over √3 times 4.303
        (
            [966, 962, 962],
            "-0.1 points beside serial, the mean of 3 seeds, each on the same 1,000 digits (-1.2 "
            "to +1.0 with 95% confidence), which is noise.",
        ),
        ([940, 932, 941], "which is more than noise."),
    ],
)
def test_a_difference_is_noise_or_more(right: list[int], said: str) -> None:
    serial = [965] if len(right) == 1 else [965, 960, 968]
    found = demonstration._beside(row("serial", *serial), row("parareal n = 2", *right))
    assert said in found


@pytest.mark.rest
def test_a_process_trains_as_this_one_does() -> None:
    """From the same weights, on the same batches; only a small share of the digits."""
    digits = few_digits()
    serial, wanted = runs((2,), (5,), (11, 2), Recipe(epochs=1, batch=120))
    assert (serial.name, wanted.name, wanted.recipe.seed) == ("serial", "parareal n = 2", 5)
    told = Printer(quiet=True).progress
    here, there = (train_all([wanted], digits, told, None, workers)[0] for workers in (1, 2))
    assert (here.run, here.plan) == (there.run, there.plan)
    # one thread there and perhaps more here add up in another order
    torch.testing.assert_close(here.outcome.losses, there.outcome.losses, rtol=1e-4, atol=1e-4)
    answers = predict(there.trained(digits), digits.test_images).argmax(-1)
    assert torch.equal(answers == digits.test_labels, there.right)


@pytest.mark.rest
def test_a_captured_step_is_timed_where_there_is_a_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demonstrated, "DEEP", 32)
    demonstrated.time_captured(Printer(), Rehearsal())
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("4. Measured here, on cpu: a training step of a chain of 32 layers")
    assert re.search(r"serial \d+\.\d\d ms, layer-parallel by MGRIT \d+\.\d\d ms, \d", said)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    demonstrated.time_captured(Printer())
    assert not capsys.readouterr().out


def few_digits() -> Digits:
    whole = load_digits()
    return replace(
        whole,
        train_images=whole.train_images[:240],
        train_labels=whole.train_labels[:240],
        test_images=whole.test_images[:100],
        test_labels=whole.test_labels[:100],
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]], str]:
    """A small demo whose commands on ranks are noted instead of run, and what it printed."""
    out, commands, said = tmp_path_factory.mktemp("demo"), list[list[str]](), list[str]()

    def launch(command: Sequence[str], ranks: int) -> int:
        assert ranks == demonstrated.RANKS
        commands.append(list(command))
        return 0

    def say(_self: Printer, *parts: Any) -> None:
        said.extend(part if isinstance(part, str) else part.title for part in parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstrated, "launch", launch)
        patch.setattr(demonstration, "load_digits", few_digits)
        patch.setattr(Printer, "__call__", say)
        recipe = Recipe(epochs=1, batch=80)
        demo = Demo(20, 4, recipe=recipe, seeds=(0, 1), workers=1, minutes=0.05)
        demonstration.run(demo, out, Printer())
    return out, commands, "\n".join(said)


def test_all_three_parts_are_there(ran: tuple[Path, list[list[str]], str]) -> None:
    out, _, text = ran
    for part in (
        "1. Trained",
        "2. Measured here",
        "3. Converted",
        "points beside serial, the mean of",
    ):
        assert part in text
    for file in ("loss.png", "schedule.svg", "network.py", "converted", "parareal-2", "test.npy"):
        assert (out / file).exists()
        assert str(out / file) in text


def test_the_commands_are_what_a_user_may_type(
    ran: tuple[Path, list[list[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process, as ranks take long to start; the same options."""
    _, (bench, check), text = ran
    assert bench[0] == "bench"
    for command in (bench, check):
        assert command[-2:] == ["--ranks", "2"]
        assert "pararealize " + " ".join(command) in text
    with pytest.raises(SystemExit) as ended:
        main([*check[:-2], "--agreement", "0.01"])
    assert not ended.value.code
    printed = " ".join(capsys.readouterr().out.split())
    assert "beside the serial network on 100 samples" in printed
    assert "Latency for [1, 1, 14, 14]" in printed
    assert "Latency for [4, 1, 14, 14]" in printed


def test_without_ranks_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(_command: Sequence[str], _ranks: int) -> int:
        raise RankError("mpiexec is nowhere.")

    monkeypatch.setattr(demonstrated, "launch", launch)
    shape = (20, 4)
    trained = demonstrated.Trained(torch.nn.Identity(), few_digits(), tmp_path, shape)
    demonstrated.time_training(trained, Printer())
    assert "Not measured: mpiexec is nowhere." in capsys.readouterr().out
