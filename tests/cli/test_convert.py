"""Converting a trained network and checking what was written, from the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pararealize import load
from pararealize.calibration import latency
from pararealize.cli.main import main
from pararealize.cli.specs import load_model

#: Twelve residual layers of width 6, whose three classes all occur, and which differ enough from
#: each other that a coarse network without weights does not answer like them.
MODEL = """
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.tanh(2.0 * self.inner(x))

class Net(nn.Module):
    def __init__(self, depth=12):
        super().__init__()
        self.layers = nn.Sequential(*(Layer() for _ in range(depth)))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layers(x))

def net():
    return Net()

def deep():
    torch.manual_seed(0)
    return Net(60)

def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        yield torch.randn(25, 6, generator=generator), torch.zeros(25, dtype=torch.int64)
"""


class Place:
    """A folder with a model, its trained weights, and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "network.py"
        self.file.write_text(MODEL, encoding="utf-8")
        self.model = f"{self.file}:net"
        self.weights = folder / "weights.pt"
        torch.manual_seed(7)
        net = load_model(self.model)
        torch.save(net.state_dict(), self.weights)
        self.state = net.state_dict()
        self.data = folder / "data.npy"
        inputs = np.random.default_rng(0).normal(size=(200, 6))
        np.save(self.data, inputs)
        with torch.no_grad():
            found = net(torch.from_numpy(inputs).float()).argmax(1).bincount(minlength=3)
        assert found.min() > 10

    def convert(self, data: object, out: str, *options: str, weights: object = None) -> int:
        """So small a network would be slower, which is no reason not to write it here."""
        return self.only_if_worth(data, out, *options, "--best", weights=weights)

    def only_if_worth(self, data: object, out: str, *options: str, weights: object = None) -> int:
        chosen = str(weights or self.weights)
        return code(
            *("convert", self.model, "-n", "3", "--weights", chosen, "--calibrate", str(data)),
            *("-o", str(self.folder / out), "--batch", "20", "--epochs", "3", *options),
        )


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("convert"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.fixture(scope="module")
def converted(place: Place) -> Path:
    """With coarse networks that were fitted, and asked to agree as often as two sweeps do."""
    assert place.convert(place.data, "net", "--coarse", "thinned", "--agreement", "0.7") == 0
    return place.folder / "net"


def test_candidates_are_compared_and_the_weights_are_the_users(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.convert(place.data, "auto", "--agreement", "0.6", "--above", "exact") == 0
    text = said(capsys)
    for part in ("identity", "rediscretized", "thinned 1", "step error", "contraction", "0 sweeps"):
        assert part in text
    assert text.count("→") == 1
    assert "60.00% were asked for" in text
    assert "sweeps on until all are the serial network's" in text
    (written,) = (place.folder / "auto").glob("*.safetensors")
    found = load_file(written)
    assert all(torch.equal(found[name], value) for name, value in place.state.items())
    assert set(found) - set(place.state) == {k for k in found if k.startswith("coarse.")}


def test_what_was_written_is_checked(
    place: Place, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", f"{place.file}:batches")
    assert code("check", str(converted), "--model", place.model, *data) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "beside the serial network on 150 samples" in text
    assert "3 100.00% 0.0e+00 –" in text  # after n sweeps it is the serial network to the last bit
    assert "as often as wanted (70.00%)" in text
    assert "Accuracy by the labels" in text
    assert "no second device is used" in text


def test_less_agreement_than_wanted_exits_1(
    place: Place, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("check", str(converted), "--model", place.model, "--data", str(place.data))
    assert code(*arguments, "--agreement", "1") == 1
    assert "LESS often than wanted (100.00%)" in said(capsys)
    assert code(*arguments, "--agreement", "2") == 2
    assert "--agreement 2.0: expected 0 to 1" in said(capsys)
    assert code("check", str(converted), "--data", str(place.data)) == 2
    assert "needs a folder that was saved, and the model" in said(capsys)


@pytest.mark.rest
def test_ranks_answer_like_one_process(
    place: Place, converted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--ranks", "2", "--model", place.model, "--data", str(place.data))
    found = code("check", str(converted), *options)
    out, errors = capfd.readouterr()
    text = " ".join(out.split())
    assert found == 0, errors
    assert text.count("beside the serial network on 200 samples") == 1
    assert "on 2 ranks" in text
    # Its subnetworks are the serial network's operations one after another, on ranks as well.
    assert "3 100.00% 0.0e+00 –" in text


def test_coarse_networks_are_as_deep_and_of_the_rank_asked_for(place: Place) -> None:
    given = ("--agreement", "0.1", "--rate", "0.01", "--coarse")
    assert place.convert(place.data, "deep", *given, "thinned", "--coarse-depth", "2,1,1") == 0
    assert place.convert(place.data, "low", *given, "factored", "--coarse-rank", "0.2") == 0
    methods = [
        load(place.folder / name, load_model(place.model)).plan.method for name in ("deep", "low")
    ]
    assert (methods[0].coarse, methods[0].coarse_depth) == ("thinned", (2, 1, 1))
    assert (methods[1].coarse, methods[1].coarse_rank) == ("factored", 0.2)


def test_groups_are_fitted_as_asked_for(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    grouped = ("-n", "4", "--parareal-levels", "3", "--parareal-coarsening", "2")
    options = ("--coarse", "thinned", "--agreement", "0.5")
    assert place.convert(place.data, "grouped", *options, *grouped) == 0
    assert "'thinned, 3 levels' coarse networks" in said(capsys)
    net = load(place.folder / "grouped", load_model(place.model))
    assert [group.first for group in net.plan.groups] == [1, 3]
    assert any(name.startswith("coarse.level3_") for name in net.state_dict())
    check = ("check", str(place.folder / "grouped"), "--model", place.model)
    assert code(*check, "--data", str(place.data), "--agreement", "0.3") == 0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--agreement", "0.9"), "--agreement changes nothing: nothing is fitted without"),
        (("--best",), "--best changes nothing"),
        (("--mean", "0.5"), "--mean changes nothing"),
        (("--rate", "0.1"), "--rate changes nothing"),
        (("--coarse", "identity", "--coarse-rank", "0.5"), "--coarse-rank changes nothing: it is"),
        (("--coarse", "fine", "--coarse-depth", "2"), "--coarse-depth changes nothing: it is for"),
        (("--mgrit", "coarsening=2", "--guess", "coarse"), "--guess changes nothing: with --mgrit"),
    ],
)
def test_options_without_an_effect_are_refused(
    place: Place, option: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("convert", place.model, "-n", "2", "-o", str(place.folder / "x"), *option) == 2
    assert words in said(capsys)
    assert not (place.folder / "x").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--agreement", "0.9"), "--agreement changes nothing: answers are compared with --data"),
        (("--data", "x.npy", "-n", "2"), "--n changes nothing: --data compares"),
    ],
)
def test_options_of_the_other_check_are_refused(
    converted: Path, option: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("check", str(converted), *option) == 2
    assert words in said(capsys)


def test_an_agreement_that_is_not_reached_writes_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--coarse", "identity", "--agreement", "1")
    deep = ("convert", f"{place.file}:deep", "-n", "3", "--calibrate", str(place.data))
    assert code(*deep, "-o", str(place.folder / "poor"), "--batch", "20", *options) == 2
    text = said(capsys)
    assert "no coarse network agrees" in text
    assert "the best is 'identity' with" in text
    assert "after 2." in text
    assert "--best" in text
    assert not (place.folder / "poor").exists()
    assert place.convert(place.data, "poor", *options, "--best") == 0
    assert "less than the 100.00% asked for" in said(capsys)
    arguments = ("check", str(place.folder / "poor"), "--model", place.model)
    assert code(*arguments, "--data", str(place.data)) == 1


def other_weights(place: Place, change: str) -> Path:
    state = dict(place.state)
    if change == "missing":
        del state["head.bias"]
    elif change == "unknown":
        state["tail.weight"] = torch.zeros(2)
    else:
        state["head.weight"] = torch.zeros(4, 6)
    path = place.folder / f"{change}.safetensors"
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("missing", "not those of Net: missing: head.bias"),
        ("unknown", "not those of Net: unknown: tail.weight"),
        ("shape", "of another shape: head.weight [4, 6] for [3, 6]"),
    ],
)
def test_weights_of_another_network(
    place: Place, change: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = other_weights(place, change)
    assert place.convert(place.data, "unwritten", weights=weights) == 2
    assert text in said(capsys)


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        (np.zeros((0, 6)), (), "has no samples: its shape is [0, 6]"),
        (np.zeros((50, 6)), ("--shape", "2,4,6"), "the network was compiled for [batch, 4, 6]"),
        (np.full((50, 6), np.nan), (), "has NaN or infinite numbers"),
        (np.zeros((19, 6)), (), "19 samples, fewer than one batch of 20"),
        (np.zeros((50, 6), dtype=np.int64), (), "holds whole numbers, which Net does not take"),
        (np.array([{}, {}]), (), "cannot be read as an array of numbers"),
    ],
    ids=["empty", "shape", "nan", "few", "whole", "objects"],
)
def test_data_that_do_not_fit(
    place: Place,
    values: np.ndarray,
    options: tuple[str, ...],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = place.folder / "bad.npy"
    np.save(path, values, allow_pickle=True)
    assert place.convert(path, "unwritten", *options) == 2
    assert text in said(capsys)
    assert not (place.folder / "unwritten").exists()


def test_what_is_no_data_at_all(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.convert(place.folder / "gone.npy", "unwritten") == 2
    assert "gone.npy" in said(capsys)
    assert place.convert("nothing", "unwritten") == 2
    assert "no such folder or file" in said(capsys)
    assert place.convert(place.data, "network.py") == 2
    assert "is no folder" in said(capsys)


@pytest.mark.rest
def test_a_budget_is_kept_and_shown_through_a_pipe(place: Place) -> None:
    """A real process whose output nobody sees on a terminal; it ends long before its epochs."""
    out = place.folder / "in-time"
    command = [
        *(sys.executable, "-m", "pararealize", "convert", f"{place.file}:deep", "-n", "3"),
        *("--calibrate", str(place.data), "--batch", "20", "--agreement", "0.6", "-o", str(out)),
        *("--epochs", "1000000", "--minutes", "0.1", "--confidence", "0.5"),
    ]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    spent = time.monotonic() - begun
    assert spent < 60, done.stderr  # the limit is 6 s, besides starting Python on a busy machine
    assert "is compiled and calibrated, in 0.1 minutes at most" in " ".join(done.stdout.split())
    assert "0:0" in done.stderr
    assert " left" in done.stderr
    assert "stepped 1" in done.stdout
    if done.returncode == 0:
        plan = load(out, load_model(f"{place.file}:deep")).plan
        assert plan.speedup > 1
        assert plan.calibration is not None
        assert plan.calibration.seconds < 30
    else:  # so busy a machine that nothing was fitted far enough
        assert "What would win" in done.stderr or "no coarse network agrees" in done.stderr
        assert not out.exists()


def test_what_would_lose_is_not_written(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Coarse networks that take as long as subnetworks, whatever else the machine does."""
    monkeypatch.setattr(latency, "medians", lambda *parts, **_options: [1e-5] * len(parts))
    asked = ("--coarse", "thinned", "--coarse-depth", "2", "--agreement", "0.1")
    assert place.only_if_worth(place.data, "losing", *asked) == 2
    text = said(capsys)
    assert "faster in 3 subnetworks" in text or "would be slower than serial" in text
    assert "What would win: " in text
    assert not (place.folder / "losing").exists()
    assert place.convert(place.data, "losing", *asked) == 0
    assert "This will LOSE" in said(capsys)
    assert (place.folder / "losing").exists()
