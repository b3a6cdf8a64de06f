"""Reach: what this package keeps of a network, and that every question can be answered with no."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pararealize.cli.differences import StepOutcome
from pararealize.network import ParallelNetwork
from studies.processes import FailedError, brief, in_processes
from studies.reach import QUESTIONS, Case, Tool, examine
from studies.tools import OURS, alone

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Case]:
    monkeypatch.syspath_prepend(EXAMPLES)
    cases = importlib.import_module("reach_cases").cases()
    return lambda name: next(case for case in cases if case.name == name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MLP, dropout", ("yes", "yes", "yes", "n/a")),
        ("ResNet-20", ("yes", "yes", "yes", "n/a")),
        ("U-Net", ("n/a", "yes", "yes", "n/a")),
        ("encoder-decoder", ("n/a", "yes", "yes", "n/a")),
        ("tied embedding", ("n/a", "yes", "yes", "yes")),
        ("data-dependent branch", ("n/a", "yes", "yes", "n/a")),
    ],
)
def test_a_parareal_network_keeps_all_that_there_is(
    case: Callable[[str], Case], name: str, expected: tuple[str, ...]
) -> None:
    row = examine(OURS, case(name))
    assert row.compiles.answer == "yes", row
    assert row.seconds is not None
    assert row.seconds > 0
    found = {question: finding.answer for question, finding in row.findings.items()}
    assert found == dict(zip(QUESTIONS, expected, strict=True)), row


@pytest.mark.parametrize("name", ["U-Net", "encoder-decoder", "dense connections"])
def test_connections_cross_the_cuts(case: Callable[[str], Case], name: str) -> None:
    net = OURS.cut(case(name).build().double(), case(name))
    assert isinstance(net, ParallelNetwork)
    assert net.plan.n == case(name).pieces
    assert max(len(piece.state) for piece in net.plan.pieces) > 1


class Whole(nn.Module):
    """The network under another name, deaf to ``eval()``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return self.net(*inputs, **named)

    def train(self, mode: bool = True) -> Whole:
        self.net.train(True)
        return self


def untied(model: nn.Module, _case: Case) -> nn.Module:
    model.scores.weight = nn.Parameter(model.embedding.weight.detach().clone())  # type: ignore
    return model


def doubled(net: nn.Module, case: Case) -> list[StepOutcome]:
    (found,) = alone(net, case)
    return [replace(found, gradients={k: 2 * v for k, v in found.gradients.items()})]


def forgetful(net: nn.Module, case: Case) -> list[StepOutcome]:
    (found,) = alone(net, case)
    return [replace(found, gradients=dict(list(found.gradients.items())[1:]))]


SAME = Tool("same", lambda model, _case: model, lambda net: [net], alone)
WHOLE = replace(SAME, cut=lambda model, _case: Whole(model))


@pytest.mark.parametrize("name", ["MLP, dropout", "tied embedding"])
def test_the_network_itself_is_as_good_as_itself(case: Callable[[str], Case], name: str) -> None:
    findings = examine(SAME, case(name)).findings.values()
    assert {finding.answer for finding in findings} == {"yes", "n/a"}


@pytest.mark.parametrize(
    ("tool", "name", "question", "reason"),
    [
        (WHOLE, "MLP, dropout", "follows eval()", "still answers as in train mode"),
        (WHOLE, "MLP, dropout", "keeps names", "16 lost, as 0.0.bias; 16 new, as net.0.0.bias"),
        (replace(SAME, step=doubled), "MLP, dropout", "equals serial", "gradients: "),
        (
            replace(SAME, step=forgetful),
            "MLP, dropout",
            "equals serial",
            "no gradient of 0.0.weight",
        ),
        (replace(SAME, cut=untied), "tied embedding", "keeps ties", "2 parameters instead of one"),
    ],
)
def test_what_is_lost_is_told(
    case: Callable[[str], Case], tool: Tool, name: str, question: str, reason: str
) -> None:
    finding = examine(tool, case(name)).findings[question]
    assert finding.answer == "no"
    assert reason in finding.reason


def test_gradients_of_copies_on_several_ranks_are_added(case: Callable[[str], Case]) -> None:
    def halves(net: nn.Module, case: Case) -> list[StepOutcome]:
        (found,) = alone(net, case)
        tie = found.gradients["embedding.weight"]
        first = replace(found, gradients={**found.gradients, "embedding.weight": tie / 4})
        return [first, StepOutcome(found.outputs, {"scores.weight": 3 * tie / 4}, {})]

    row = examine(replace(SAME, step=halves), case("tied embedding"))
    assert row.findings["equals serial"].answer == "yes", row


def test_a_tool_that_fails_is_quoted(case: Callable[[str], Case]) -> None:
    def fail(_model: nn.Module, _case: Case) -> nn.Module:
        raise ValueError("first line\nsecond line") from KeyError("why")

    row = examine(replace(SAME, cut=fail), case("U-Net"))
    assert (row.compiles.answer, row.seconds, row.findings) == ("no", None, {})
    assert row.compiles.reason == "ValueError: first line ← KeyError: 'why'"


def test_long_messages_are_shortened() -> None:
    text = brief(ValueError("word " * 100))
    assert len(text) < 120
    assert text.endswith("…")


def test_processes_answer_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    def slow() -> Tensor:
        time.sleep(0.2)
        print("noise")
        return torch.ones(2)

    first, second = in_processes([slow, lambda: torch.zeros(2)], 30)
    assert first.tolist() == [1, 1]
    assert second.tolist() == [0, 0]
    assert capfd.readouterr().out == ""


def fail() -> None:
    raise ValueError("the first cause")


@pytest.mark.parametrize(
    ("work", "seconds", "text"),
    [
        (fail, 30.0, "ValueError: the first cause"),
        (lambda: os._exit(3), 30.0, "the process ended with code 3"),
        (lambda: time.sleep(60), 0.3, "no answer within 0.3 seconds"),
    ],
)
def test_one_failure_ends_all_processes(
    work: Callable[[], None], seconds: float, text: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(FailedError, match=text):
        in_processes([lambda: time.sleep(60), work], seconds)
    assert time.monotonic() - begin < 10
