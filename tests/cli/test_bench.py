"""The benchmark: its rows, its timelines and its errors, on two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pararealize.cli.launch import launch
from pararealize.cli.main import main

MODEL = """
import torch
from torch import nn


def factory():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1)]
    for _ in range(4):
        layers += [nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 2))
"""
OPTIONS = ["--ranks", "2", "--batch", "2", "--rounds", "1", "--shape", "3,8,8"]
ALWAYS = ("pararealize, n = 2", "ceiling: independent parts", "serial, 1 thread")
TRAINING_ONLY = ("torch pipelining GPipe", "torch pipelining 1F1B", "DistributedDataParallel")


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return f"{path}:factory"


def rows(text: str) -> dict[str, list[str]]:
    """The numbers of each row, by its first words; what differs last."""
    lines = [line.split("  ") for line in text.splitlines() if " × " in line]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {cell[0]: cell[1:] for cell in cells if len(cell) > 4}


def code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.rest
def test_a_training_step_beside_its_peers_and_its_timeline(
    net: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = code_of("bench", net, *OPTIONS, "--trace", str(tmp_path / "trace.json"))
    text, errors = capfd.readouterr()
    assert code == 0, text + errors
    assert "training step, input [2, 3, 8, 8], heap allocator" in text
    found = rows(text)
    for name in (*ALWAYS, *TRAINING_ONLY):
        (row,) = [cells for title, cells in found.items() if title.startswith(name)]
        assert float(row[1]) > 0
        same = row[-1] == "–" if name.startswith("ceiling") else float(row[-1]) < 1e-4
        assert same, (name, row)
    assert found["pararealize, n = 2"][-2] == "1.00×"

    (file,) = tmp_path.glob("trace*")
    assert file.name == "trace-batch2.json"
    events = json.loads(file.read_text())["traceEvents"]
    assert {event["tid"] for event in events} == {"rank 0", "rank 1"}
    assert {event["ph"] for event in events} == {"X"}
    assert min(event["ts"] for event in events) == 0
    assert all(event["dur"] >= 0 for event in events)
    tasks = {(event["tid"], event["name"]) for event in events}
    assert {("rank 0", "v1.0 = fine.1(x)"), ("rank 1", "v2.0 = fine.2(u1.0)")} <= tasks
    assert "backward" in {event["cat"] for event in events}


@pytest.mark.rest
def test_inference_on_one_rank_has_no_pipelines(
    net: str, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--batch", "2", "--rounds", "1", "--shape", "3,8,8", "-n", "2", "--inference"]
    assert launch(["bench", net, *options], 1) == 0
    text = capfd.readouterr().out
    assert "inference, input [2, 3, 8, 8]" in text
    found = rows(text)
    assert set(ALWAYS) <= set(found)
    assert not [name for name in found if name.startswith(TRAINING_ONLY)]
    assert float(found["pararealize, n = 2"][-1]) < 1e-4


def test_a_wrong_model_name_is_said_once(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What two ranks say, who meet in one folder."""
    for _rank in range(2):
        wrong = net.replace("factory", "nothing")
        assert code_of("bench", wrong, *OPTIONS, "--worker", str(tmp_path)) == 2
    text = "".join(capsys.readouterr())
    assert text.count("pararealize: ") == 1, text
    assert " ".join(text.split()).count("has no 'nothing'") == 1, text
    assert "Traceback" not in text
