"""Methods on the command line."""

from __future__ import annotations

import pytest

from pararealize.cli.main import main

MODEL = "pararealize.models:resnet56"


def run(capsys: pytest.CaptureFixture[str], options: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    with pytest.raises(SystemExit) as ended:
        main(["explain", MODEL, "-n", "3", "--mgrit", options, "--text"])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((captured.out + captured.err).split())


def test_multigrid_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "levels=3,coarsening=(2,2),coarse=sampled,forward_cycles=2")
    assert code == 0
    assert "MGRIT with 3 levels: 2 cycles for the states, 1 for their adjoints" in text
    assert "coarse levels of MGRIT" in text
    assert "= coarse3.3(" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("colour=red", "'colour' is none of levels, coarsening"),
        ("coarsening=1", "expected one factor of 2 or more"),
        ("coarse=fancy", "expected one of 'auto'"),
        ("coarsening=99", "more than the"),
    ],
)
def test_options_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    code, text = run(capsys, options)
    assert code == 2
    assert said in text


def test_a_tolerance_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["explain", MODEL, "-n", "3", "--tolerance", "0.125"])
    assert not ended.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert "At most 3 sweeps, until jumps are below 0.125" in text
