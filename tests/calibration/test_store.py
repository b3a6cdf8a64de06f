"""Records in memory, and in files once that is full."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize.calibration.store import Store


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
