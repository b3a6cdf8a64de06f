"""Progress: sparse lines, nothing, or what the caller brings."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from pararealize import ParallelNetwork, Parareal, load, pararealize
from pararealize.runtime.monitoring.progress import Advance, Lines, Progress


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_sparse_and_the_last_says_how_long_it_took() -> None:
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, seconds=5, clock=clock) as progress:
        with progress.task("states") as advance:
            clock.now += 1
            advance()
        with progress.task("coarse networks", 12) as advance:
            for _ in range(12):
                clock.now += 2
                advance("loss 0.5")
    assert stream.getvalue().splitlines() == [
        "states: 1, done in 1.0 s",
        "coarse networks: 3 of 12, loss 0.5, 6.0 s",
        "coarse networks: 6 of 12, loss 0.5, 12.0 s",
        "coarse networks: 9 of 12, loss 0.5, 18.0 s",
        "coarse networks: 12 of 12, loss 0.5, done in 24.0 s",
    ]


def test_a_task_that_fails_does_not_say_that_it_is_through() -> None:
    stream = io.StringIO()
    with suppress(RuntimeError), Lines(stream).task("states", 3) as advance:
        advance()
        raise RuntimeError
    assert not stream.getvalue()


def test_lines_can_be_hidden() -> None:
    stream = io.StringIO()
    with Lines(stream, shown=False).task("states") as advance:
        advance()
    assert not stream.getvalue()


class Seen(Progress):
    """How often the tasks of every name advanced."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Advance]:
        self.steps.setdefault(what, 0)

        def advance(note: str = "") -> None:
            self.steps[what] += 1

        yield advance


@pytest.fixture
def net() -> ParallelNetwork:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]
    method = Parareal(coarse="factored", correction="difference", guess="coarse")
    return pararealize(nn.Sequential(*layers), 3, method=method, example_inputs=(torch.ones(2, 4),))


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_a_calibration_tells_what_is_asked_to_be_told(
    net: ParallelNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    data, seen = torch.randn(40, 4), Seen()
    net.calibrate(data, epochs=1, batch=10, progress=seen)
    assert seen.steps["states of the serial network"] == 4
    assert any(what.startswith("factored") and steps for what, steps in seen.steps.items())
    net.calibrate(data, epochs=1, batch=10, progress=False)
    assert not "".join(capsys.readouterr())
    net.calibrate(data, epochs=1, batch=10)
    out, err = capsys.readouterr()
    assert not out
    first, *others = err.splitlines()
    assert first.startswith("states of the serial network: 4, ")
    costs, *fits = [line.partition(":")[0] for line in others]
    assert costs == "costs of coarse networks"
    assert fits == ["factored coarse networks"] * 2


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_loading_tells_what_is_asked_to_be_told(
    net: ParallelNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net.save(tmp_path)
    model, seen = net.to_serial(), Seen()
    load(tmp_path, model, progress=seen)
    assert set(seen.steps) == {
        "tracing, and comparing with the model",
        "filling it with the weights",
    }
    load(tmp_path, model)
    assert not "".join(capsys.readouterr())
    load(tmp_path, model, progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert [line.partition(": done in ")[0] for line in err.splitlines()] == list(seen.steps)
