"""The check compares with the serial network, says what is worst, and exits 1 where they differ."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize import MGRIT, ParallelNetwork, Parareal, pararealize
from pararealize.cli import differences as differing
from pararealize.cli import memory
from pararealize.cli.differences import StepOutcome, differences
from pararealize.cli.main import main
from pararealize.cli.specs import load_model
from pararealize.cli.terminal import Printer
from pararealize.errors import PararealizeError
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


#: Nine residual layers.
DEEP = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(Layer() for _ in range(9)))

    def forward(self, x):
        return self.layers(x)


def net():
    return Net()
"""


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments])
    return int(stop.value.code or 0)


def test_a_model_equals_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("pararealize.models:resnet56", "-n", "3") == 0
    text = capsys.readouterr().out
    assert all(kind in text for kind in ("outputs", "gradients", "buffers", "all parameters", "ok"))


@pytest.mark.rest
def test_a_saved_network_is_checked_with_its_own_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pararealize(resnet56(), 2).save(tmp_path / "net")
    saved = str(tmp_path / "net")
    assert code_of(saved, "--model", "pararealize.models:resnet56", "-n", "4") == 0
    assert "n = 4" in capsys.readouterr().out
    assert code_of(saved) == 2
    assert "holds weights and a plan, and no code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Parareal(coarse="thinned", correction="difference", guess="coarse"), "1 sweeps"),
        (Parareal(iterations=2, coarse_depth=(1, 1, 2)), "2 sweeps"),
        (MGRIT(coarsening=2), "MGRIT, 3 cycles"),
    ],
    ids=["calibrated kinds", "residual", "multigrid"],
)
def test_a_folder_is_checked_with_its_own_cuts_and_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: Any, said: str
) -> None:
    """Three unequal subnetworks, which nothing but the folder says."""
    model, net = saved(tmp_path, method)
    assert code_of(str(tmp_path / "net"), "--model", model) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "n = 3, as saved, made exact" in text
    assert said in text
    assert "Memory: about 0.4 GiB" in text
    assert net.plan.n == 3


def saved(folder: Path, method: Any) -> tuple[str, ParallelNetwork]:
    file = folder / "deep.py"
    file.write_text(DEEP, encoding="utf-8")
    model, x = f"{file}:net", (torch.zeros(2, 6),)
    cuts = ["layers.1", "layers.3"]
    net = pararealize(load_model(model), 3, method=method, interfaces=cuts, example_inputs=x)
    net.save(folder / "net")
    return model, net


def test_the_cuts_of_the_folder_are_those_that_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    model, net = saved(tmp_path, Parareal())

    def noted(*args: Any, **options: Any) -> Any:
        made = pararealize(*args, **options)
        seen.append(made.plan.cuts)
        return made

    monkeypatch.setattr(differing, "pararealize", noted)
    differing.exact(differing.Pair(str(tmp_path / "net"), model))
    differing.exact(differing.Pair(str(tmp_path / "net"), model, n=2))
    assert seen[0] == net.plan.cuts
    assert len(seen[1]) == 1


@pytest.mark.parametrize(("ranks", "way"), [(1, "smaller"), (4, "--ranks 2"), (3, "--ranks 2")])
def test_memory_that_there_is_not_is_said_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, ranks: int, way: str
) -> None:
    needed = memory.comparison(parameters=10**8)
    assert needed > 6 * 8 * 10**8
    room = 0.9 if ranks == 1 else 2.5
    monkeypatch.setattr(memory, "free", lambda: int(room * needed))
    with pytest.raises(PararealizeError, match=way) as raised:
        memory.say_or_refuse(needed, ranks, Printer())
    assert "would be killed" in str(raised.value)


def test_memory_is_known_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = memory.free()
    assert found is None or found > 0
    memory.say_or_refuse(1, 2, Printer())
    assert "on each of 2 ranks" in capsys.readouterr().out
    memory.say_or_refuse(1, 2, Printer(quiet=True))
    assert not capsys.readouterr().out


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
