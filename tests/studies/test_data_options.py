"""Studies take ``--data NAME[=FOLDER]``: each runs at a tiny scale on files made here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from set_files import WRITERS
from torch import nn

from pararealize import models
from pararealize.errors import DataError
from studies.datasets import CARRIED, FORMS, KINDS, read
from studies.fitted import fitted
from studies.labelled import Examples

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Study, set of examples, further arguments, and what its table says.
STUDIES = [
    (
        *("accuracy", "cifar10"),
        ["--only", "ResNet-29, strided", "--epochs", "1", "--counts", "2", "--seeds", "0"],
        "n = 2",
    ),
    ("accuracy", "mnist", ["--only", "ViT-8", "--epochs", "1", "--counts", "2"], "n = 2"),
    ("nested", "indian-pines", ["--runs", "1", "--rates", "0.01", "--epochs", "1"], "indian-pines"),
    (
        *("nested", "indian-pines"),
        ["--published", "--runs", "1", "--widths", "4", "--share", "0.02"],
        "nested, three levels",
    ),
    ("odenet", "fashion-mnist", ["--seeds", "1", "--epochs", "1"], "MGRIT 2/1, n = 4"),
    ("mgopt", "svhn", ["--seeds", "1", "--share", "0.02"], "nested, then MG/OPT"),
    (
        *("gru", "uci-har"),
        ["--seeds", "0", "--length", "24", "--epochs", "1", "--width", "8"],
        "implicit GRU, solved in 8",
    ),
    ("warpnet", "cifar100", ["--seeds", "0", "--depth", "29", "--epochs", "1"], "WarpNet"),
    (
        "video",
        "hmdb51",
        ["--limit", "2", "--seeds", "0", "--epochs", "1", "--width", "8"],
        "8 slices",
    ),
    ("biased", "fashion-mnist", ["--cycles", "1", "--steps", "2"], "serial"),
]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, study: str, arguments: list[str]) -> None:
    """Run an example as a program, in an empty folder."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{study}.py", *arguments])
    try:
        runpy.run_path(str(EXAMPLES / f"{study}.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.rest
@pytest.mark.filterwarnings("ignore::UserWarning")  # few examples: what is measured is nonsense
@pytest.mark.parametrize(("study", "name", "arguments", "said"), STUDIES)
def test_a_study_runs_on_a_folder(
    study: str,
    name: str,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    WRITERS[name][0](files)
    run(monkeypatch, tmp_path, study, ["--data", f"{name}={files}", *arguments])
    assert said in capsys.readouterr().out


@pytest.mark.rest
@pytest.mark.parametrize("study", sorted({study for study, *_ in STUDIES}))
def test_a_folder_that_is_not_there_is_one_sentence(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, tmp_path, study, ["--data", "svhn=/no/such/folder"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "/no/such/folder is no folder" in said


@pytest.mark.parametrize("name", ["digits", "peaks", "smartwatch"])
def test_sets_of_packages_need_no_folder(name: str) -> None:
    found = read(name, limit=7)
    assert len(found.train_labels) == len(found.test_labels) == 7
    assert torch.equal(found.train_inputs, read(name, limit=7).train_inputs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mnist", r"mnist needs a folder, mnist=FOLDER.*yann\.lecun"),
        ("imagenet", r"imagenet needs a folder"),
        ("hmdb51", r"hmdb51 needs a folder"),
        ("digits=/tmp", r"digits needs no folder"),
        ("peaks=", r"peaks needs no folder"),
        ("minst", r"'minst' is no set of examples: there are digits, peaks, smartwatch, and with"),
        ("minst=/tmp", r"minst=/tmp is no NAME=FOLDER"),
        ("", r"'' is no set"),
    ],
)
def test_what_is_named_wrongly_is_said(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(text)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_leaves_an_example(limit: int) -> None:
    with pytest.raises(DataError, match=f"--limit {limit}"):
        read("peaks", limit=limit)


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("peaks", "images", r"takes images .*these are vectors \[2\]"),
        ("digits", "series", r"takes series .*these are images \[1, 28, 28\]"),
        ("smartwatch", "videos", r"takes videos .*these are series \[100, 6\]"),
    ],
)
def test_another_form_is_refused(name: str, form: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(name, form=form)


def test_images_and_series_are_vectors_when_they_are_flattened() -> None:
    assert read("digits", limit=2, form="vectors").train_inputs.shape == (2, 784)
    assert read("smartwatch", limit=2, form="vectors").train_inputs.shape == (2, 600)
    assert "vectors" in FORMS
    assert not set(CARRIED) & set(KINDS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.resnet(29, channels=1, width=4),
        lambda: models.vgg11(channels=1, classes=10, head="small", width=4, batch_norm=True),
        lambda: models.vit(2, width=8, heads=2, patch=8, size=32),
    ],
)
def test_networks_fit_channels_and_classes(make: object) -> None:
    examples = Examples(
        *(torch.randn(4, 3, 32, 32), torch.tensor([0, 99, 2, 3])),
        *(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])),
    )
    net = fitted(make, examples)()
    assert net(examples.train_inputs).shape == (4, 100)
    torch.manual_seed(3)
    same = Examples(*(torch.randn(3, 1, 32, 32), torch.arange(8, 11) - 1) * 2)
    torch.manual_seed(3)
    wanted = make().state_dict()
    torch.manual_seed(3)
    found = fitted(make, same)().state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_images_of_another_size_are_refused_by_name() -> None:
    examples = Examples(*(torch.randn(2, 1, 5, 5), torch.tensor([0, 9])) * 2)
    with pytest.raises(DataError, match=r"this ViT takes no images \[1, 5, 5\]"):
        fitted(lambda: models.vit(2, width=8, heads=2, patch=7, size=14), examples)()


def test_a_network_without_such_layers_stays() -> None:
    examples = Examples(*(torch.randn(2, 3, 5, 5), torch.tensor([0, 1])) * 2)
    assert isinstance(fitted(nn.Flatten, examples)(), nn.Flatten)
