"""What is observed of a network: nothing is evaluated that is not looked at; records come back."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize import Parareal
from pararealize.calibration.observe import Store, guessed_schedule, serial_schedule
from pararealize.calibration.strides import strides
from pararealize.ir.schedule import Schedule
from pararealize.ir.stages import reported
from pararealize.ir.task import Task
from pararealize.schedule.parareal import parareal_schedule
from pararealize.schedule.place import owner, place

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


GROUPED = replace(METHOD, levels=3, coarsening=2)


def test_groups_are_watched_where_they_are_corrected() -> None:
    """On three ranks the state before subnetworks 5 and 6 is sent once more, under its own name."""
    groups = [s for s in strides(6, GROUPED) if s.level == 3 and s.start > 0]
    schedule = serial_schedule(6, head=False, groups=groups)
    assert "from3.3 = u4" in list(map(str, schedule))
    assert "own3.3 = from3.3" in list(map(str, schedule))
    placed = place(schedule, 6, 2)
    seen = {(w.level, w.interface): rank for w, rank in reported((placed,))}
    assert seen == {
        **{(2, j): owner(j, 6, 2) for j in range(1, 7)},
        **{(3, j): owner(j, 6, 2) for j in (4, 6)},
    }


def fine_of(schedule: Schedule, j: int) -> Task:
    """What subnetwork j makes of the guess before it."""
    return next(task for task in schedule if task.value == f"v{j}.0")


def behind(made: dict[str, Task], value: str, until: str) -> list[int]:
    """The subnetworks, or guesses beside them, that a value has gone through since another one."""
    if value not in made or value == until:
        return []
    task = made[value]
    own = [task.piece] if task.op == "apply" else []
    return behind(made, task.reads[0], until) + own


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("levels", [3, 4])
def test_a_group_goes_on_from_the_guess_before_it(ranks: int, levels: int) -> None:
    """All of its subnetworks; every watch is reported by the rank that fits to it."""
    method = replace(GROUPED, levels=levels)
    groups = [s for s in strides(8, method) if s.level > 2 and s.start > 0]
    found = guessed_schedule(parareal_schedule(8, method), groups)
    made = {task.value: task for task in found}
    for group in groups:
        watch = next(w for w in found.watches if (w.level, w.interface) == (group.level, group.end))
        guess = behind(made, watch.old, "")[-1:]
        assert guess in ([group.start], [group.start + 1])  # where it was made
        row = behind(made, watch.new, fine_of(found, group.start + 1).reads[0])
        assert row == list(range(group.start + 1, group.end + 1))
    placed = place(found, 8, ranks)
    for watch, rank in reported((placed,)):
        assert rank == owner(watch.interface, 8, ranks)


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
