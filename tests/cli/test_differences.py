"""The check compares with the serial network, says what is worst, and exits 1 where they differ."""

from pathlib import Path

import pytest
import torch

from pararealize import pararealize
from pararealize.cli.differences import StepOutcome, differences
from pararealize.cli.main import main
from pararealize.models import resnet56

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: Nobody can draw the operating system's random numbers again.
RANDOM = """
import os
from torch import nn


class Noise(nn.Module):
    def forward(self, x):
        return x * (1 + int.from_bytes(os.urandom(4), "big") / 2**32)


def net() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(8, 8), Noise()) for _ in range(4)]
    return nn.Sequential(*layers)
"""


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments])
    return int(stop.value.code or 0)


def test_a_model_equals_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("pararealize.models:resnet56", "-n", "3") == 0
    text = capsys.readouterr().out
    assert all(kind in text for kind in ("outputs", "gradients", "buffers", "all parameters", "ok"))


def test_a_saved_network_is_checked_with_its_own_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pararealize(resnet56(), 2).save(tmp_path / "net")
    saved = str(tmp_path / "net")
    assert code_of(saved, "--model", "pararealize.models:resnet56", "-n", "4") == 0
    assert "n = 4" in capsys.readouterr().out
    assert code_of(saved) == 2
    assert "holds weights and a plan, and no code" in capsys.readouterr().err


def test_a_network_that_differs_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "random.py"
    file.write_text(RANDOM, encoding="utf-8")
    assert code_of(f"{file}:net", "-n", "3") == 1
    assert "more than 1e-10" in capsys.readouterr().out


def test_the_gradient_is_also_compared_as_a_whole() -> None:
    small, large = torch.full((2,), 1e-9), torch.ones(2)
    wanted = StepOutcome({}, {"a": small, "b": large}, {})
    found = StepOutcome({}, {"a": 2 * small, "b": large}, {})
    rows = {row.kind: row for row in differences(found, wanted)}
    assert rows["gradients"].name == "a"
    assert rows["gradient"].relative < 1e-8 < rows["gradients"].relative
