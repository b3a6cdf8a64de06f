"""The command that foretells scaling."""

from pathlib import Path

import pytest

from pararealize.cli import trust
from pararealize.cli.commands.simulate import counts_of
from pararealize.cli.main import main
from pararealize.errors import MethodError

MODEL = "pararealize.models:resnet56"


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", MODEL, *options])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize(
    ("text", "counts"),
    [("3", (3,)), ("4,16", (4, 16)), ("1…8", (1, 2, 4, 8)), ("3...20", (3, 6, 12, 20))],
)
def test_numbers_of_subnetworks(text: str, counts: tuple[int, ...]) -> None:
    assert counts_of(text) == counts


@pytest.mark.parametrize("text", ["", "0…4", "8…2", "x", "1…"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(MethodError, match="-n"):
        counts_of(text)


def test_tables_a_verdict_and_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "scaling"
    given = ("-n", "1…4", "--shape", "2,3,32,32", "--mesh", "--picture", str(picture))
    code, text = run(capsys, *given)
    assert code == 0
    assert "strong scaling: ResNet" in text
    assert "weak scaling: n subnetworks like those of n = 4" in text
    assert "together with data parallelism" in text
    assert "Best: n = " in text
    assert picture.with_suffix(".png").stat().st_size > 10_000
    assert picture.with_suffix(".svg").exists()


def test_methods_beside_each_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "methods"
    given = ("-n", "1…4", "--sweeps", "2", "--levels", "3", "--picture", str(picture))
    code, text = run(capsys, *given, "--mgrit", "coarsening=2,coarse=identity")
    assert code == 0
    names = ("parareal, 2 sweeps", "parareal, 2 sweeps, 3 levels", "MGRIT, 3 levels by 2")
    for name in (*names, "MGRIT, 2 levels by 2"):
        assert name in text
    assert "Fastest of 6 methods: " in text
    assert picture.with_suffix(".png").stat().st_size > 10_000


def test_the_best_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "-n", "2,4", "--best", "--mgrit", "coarse=mean")
    assert code == 0
    assert "MGRIT, 5 levels by 8" in text
    assert "MGRIT, 2 levels by 2" in text
    assert "Fastest of 16 methods: " in text


def test_rows_of_predictions_and_measurements_make_a_table() -> None:
    rows = [
        trust.Row("inference", 1, 2, 0.020, 0.020, 0.021),
        trust.Row("training step", 2, 2, 0.060, 0.040, 0.050),
    ]
    text = str(trust.table("net", rows))
    assert "2 × 1" in text
    assert "share 2 cores" in text
    assert "-20%" in text.replace("−", "-")


@pytest.mark.rest
def test_predictions_beside_measurements(tmp_path: Path) -> None:
    """On one rank and on two: what a step takes is near, as far as other programs let it be."""
    rows = trust.measure(["simulate", MODEL, "--measure", "1,2", "--shape", "1,3,32,32"], [1, 2])
    found = {(row.step, row.ranks): row for row in rows}
    assert set(found) == {(step, ranks) for step in trust.STEPS for ranks in (1, 2)}
    for (step, ranks), row in found.items():
        assert 0 < row.predicted < 1.5 * row.serial, step
        assert (ranks == 1) <= (row.predicted == pytest.approx(row.serial, rel=0.05))
        assert row.measured > 0
    text = str(trust.table("net", rows))
    assert "2 × 1" in text
    assert f"share {rows[0].cores} cores" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sweeps", "-1"), "--sweeps -1: expected 0 to 12"),
        (("--sweeps", "99"), "--sweeps 99: expected 0 to 12"),
        (("--levels", "1"), "there are 2 levels or more"),
        (("--parareal-levels", "1"), "Parareal(levels=1): expected an integer from 2"),
        (
            ("--parareal-levels", "2", "--parareal-coarsening", "4"),
            "write Parareal(levels=3, coarsening=4)",
        ),
        (("--parareal-levels", "3", "--parareal-coarsening", "1"), "expected 2 or more"),
        (("--measure", "0"), "--measure 0: expected 1 or more"),
        (("--measure", "two"), "--measure 'two': expected integers"),
        (("--measure", "2", "--device", "h100"), "--device changes nothing"),
        (("--device", "abacus"), "device 'abacus': expected one of core"),
        (("--link", "string"), "link 'string': expected one of memory"),
        (("--rates", "colour=1"), "'colour' is none of flops_per_second"),
        (("--rates", "link_latency=x"), "expected numbers"),
        (("--rates", "link_bandwidth=-1"), "expected more than 0"),
        (("-n", "0"), "expected 1 or more"),
    ],
)
def test_options_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    code, text = run(capsys, *options)
    assert code == 2
    assert said in text
