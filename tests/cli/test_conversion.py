"""Checkpoints in their usual forms, what is no checkpoint, and candidates side by side."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import FAST, FOUND, rows
from safetensors.torch import save_file
from torch import nn

from pararealize.cli.conversion import candidates_table
from pararealize.cli.weights import WRITE, fill, read_weights
from pararealize.errors import DataError


class Thing:
    """What only pickle knows how to make."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "inside", "of several devices"],
)
def test_checkpoints_are_found_inside(tmp_path: Path, wrap: Any) -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pt")
    fill(target, tmp_path / "w.pt")
    assert torch.equal(target.weight, source.weight)
    assert torch.equal(target.bias, source.bias)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(DataError, match="no such file"):
        read_weights(path)
    torch.save(Thing(), path)  # it would have to be executed
    with pytest.raises(DataError, match=r"holds Python objects \(.*Thing\) and not only tensors: "):
        read_weights(path)
    with pytest.raises(DataError, match=r"is a folder: .* file of weights, such as .*w\.pt\.$"):
        read_weights(tmp_path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(DataError, match="holds a list, and a dictionary of tensors was expected"):
        read_weights(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"was damaged or cut short: write them with torch.save"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty, 0 bytes"),
        (b"nothing of the kind", "is text (it begins with 'nothing of the kind')"),
        (b"<!DOCTYPE html><title>404", "is a page or a document of markup, as servers send"),
        (b"version https://git-lfs.github.com/spec/v1", "is a pointer of git-lfs"),
        (b"\x93NUMPY\x01", "is an array of NumPy"),
        (pickle.dumps({"a": 1}), "is a plain pickle"),
        (bytes(range(200, 230)), "is data of an unknown kind"),
    ],
)
def test_it_is_said_what_a_file_is(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path} {said}")) as refused:
        read_weights(path)
    assert str(refused.value).endswith(f": {WRITE}.")
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged, or no checkpoint of torch|is empty, 0 bytes"):
        read_weights(tmp_path / "w.safetensors")


def test_what_a_file_is_does_not_hang_on_its_name(tmp_path: Path) -> None:
    weights = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    save_file(weights, tmp_path / "w.bin")
    torch.save(weights, tmp_path / "earlier.ckpt", _use_new_zipfile_serialization=False)
    for name in ("w.bin", "earlier.ckpt"):
        assert set(read_weights(tmp_path / name)) == set(weights)


def test_candidates_stand_beside_each_other() -> None:
    found = rows(candidates_table(FOUND))
    chosen = ["→", "identity", "0", "0.5", "0.25", "25.0%", "50.0%", "96.9%", "1.50×", "(2)"]
    assert chosen in found
    good = ["thinned", "1", "2,234", "0.12", "0.031", "75.0%", "100.0%", "–", "1.29×", "(1)"]
    assert good in found
    assert ["mean", "0", "–", "–", "–", "12.5%", "–", "4.50×", "(1)"] in found


def test_candidates_of_one_kind_are_told_apart_by_their_levels() -> None:
    both = replace(FOUND, candidates=(FAST, replace(FAST, levels=3)), levels=3)
    marked = [row for row in rows(candidates_table(both)) if row[0] == "→"]
    assert [row[1:4] for row in marked] == [["identity,", "3", "levels"]]
