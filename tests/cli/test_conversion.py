"""Checkpoints in their usual forms, what is no checkpoint, and candidates side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import FOUND, rows
from torch import nn

from pararealize.cli.conversion import candidates_table, fill, read_weights
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
    with pytest.raises(DataError, match=r"cannot be read \(.*write them with torch.save"):
        read_weights(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(DataError, match="holds a list, and a dictionary of tensors was expected"):
        read_weights(path)
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match="cannot be read"):
            read_weights(tmp_path / name)


def test_candidates_stand_beside_each_other() -> None:
    found = rows(candidates_table(FOUND))
    chosen = ["→", "identity", "0", "0.5", "0.25", "25.0%", "50.0%", "96.9%", "1.50×", "(2)"]
    assert chosen in found
    good = ["thinned", "1", "2,234", "0.12", "0.031", "75.0%", "100.0%", "–", "1.29×", "(1)"]
    assert good in found
    assert ["mean", "0", "–", "–", "–", "12.5%", "–", "4.50×", "(1)"] in found
