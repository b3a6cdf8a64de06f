"""What is observed of a network: nothing is evaluated that is not looked at; records come back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize import Parareal
from pararealize.calibration.observe import Store, guessed_schedule
from pararealize.schedule.parareal import parareal_schedule

METHOD = Parareal("thinned", "difference", guess="coarse")


def test_guesses_and_what_becomes_of_them_are_all_that_is_made() -> None:
    found = guessed_schedule(parareal_schedule(3, METHOD))
    assert found.verify().text().split("\n")[1:] == [
        "   0  u1.0 = coarse.1(x)",
        "   1  u2.0 = coarse.2(u1.0, quiet)",
        "   2  v2.0 = fine.2(u1.0)",
        "   3  v3.0 = fine.3(u2.0)",
    ]
    assert [(w.interface, w.new, w.old) for w in found.watches] == [
        (2, "v2.0", "u1.0"),
        (3, "v3.0", "u2.0"),
    ]


def record(i: int) -> dict[str, Any]:
    return {"states": {2: (None, (torch.full((4,), float(i)), torch.tensor([i])))}}


@pytest.mark.parametrize("memory", [0, 24, 50, 1000])
def test_records_come_back_as_they_were(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Store(memory) as store:
        for i in range(4):
            store.append(record(i))
        files = len(list(tmp_path.glob("*/*.pt")))
        assert files == 4 - min(4, memory // 24)  # 16 bytes and 8
        assert len(store) == 4
        for i in (3, 0, 2, 1):
            none, (numbers, index) = store[i]["states"][2]
            assert none is None
            assert numbers.tolist() == [i] * 4
            assert int(index) == i
        assert [int(found["states"][2][1][1]) for found in store] == [0, 1, 2, 3]
    assert not list(tmp_path.iterdir())
    assert len(store) == 0


def test_files_go_where_something_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store(0)
    store.append(record(0))
    assert list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), store:
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
