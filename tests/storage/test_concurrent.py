"""Folders that several processes save to and load from at once, and what a killed one leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pararealize import ParallelNetwork, load, pararealize
from pararealize.errors import StorageError
from pararealize.models import odenet
from pararealize.storage import draft, folder
from pararealize.storage.read import PLAN, read
from pararealize.storage.write import write

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def net() -> ParallelNetwork:
    return pararealize(odenet(9, width=8, in_features=6), 3)


def save_all(net: ParallelNetwork, path: Path, value: float) -> None:
    """Save a network all of whose numbers are one and the same."""
    write(path, {k: torch.full_like(v, value) for k, v in net.state_dict().items()}, net.plan)


def value_of(path: Path) -> float:
    """The number that all the weights are, of one save."""
    (value,) = {float(v) for tensor in read(path).weights.values() for v in tensor.unique()}
    return value


def no_lock(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def in_process(work: Callable[..., Any], *args: Any) -> Any:
    """A forked process that ends with 0 where the work raises nothing."""

    def run() -> None:
        torch.set_num_threads(1)
        work(*args)

    process = FORK.Process(target=run, daemon=True)
    process.start()
    return process


def keep_saving(net: ParallelNetwork, path: Path, values: list[int], *, locks: bool) -> None:
    if not locks:
        fcntl.flock = no_lock  # as network file systems answer
    for value in values:
        save_all(net, path, value)


def keep_reading(path: Path, count: int) -> None:
    for _ in range(count):
        value_of(path)


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_several_save_and_read_one_folder(
    net: ParallelNetwork, tmp_path: Path, locks: bool
) -> None:
    save_all(net, tmp_path, -1)
    values = [list(range(first, first + 40)) for first in (0, 100, 200)]
    savers = [in_process(lambda v: keep_saving(net, tmp_path, v, locks=locks), v) for v in values]
    readers = [in_process(keep_reading, tmp_path, 60) for _ in range(2)]
    for process in (*savers, *readers):
        process.join(60)
    assert [process.exitcode for process in (*savers, *readers)] == [0] * 5
    assert value_of(tmp_path) in {each[-1] for each in values}
    save_all(net, tmp_path, 5)
    assert value_of(tmp_path) == 5
    if locks:  # else two that replace one plan at the same moment may forget a file
        assert len(list(tmp_path.iterdir())) == 2


def test_threads_save_one_folder(net: ParallelNetwork, tmp_path: Path) -> None:
    threads = [threading.Thread(target=save_all, args=(net, tmp_path, i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert value_of(tmp_path) in range(8)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_saver_that_never_ends_is_not_waited_for(
    net: ParallelNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    with folder.locked(tmp_path) as held:
        assert held
        save_all(net, tmp_path, 1)
        save_all(net, tmp_path, 2)
    assert value_of(tmp_path) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_of_a_save_stays(net: ParallelNetwork, tmp_path: Path) -> None:
    mine = ["weights-mine.safetensors", "weights-0123456789abcdef.safetensors", "notes.txt"]
    mine += ["weights-best.safetensors", "plan.json.bak", ".hidden"]
    for name in mine:
        (tmp_path / name).write_text(name)
    for value in range(3):
        save_all(net, tmp_path, value)
    assert all((tmp_path / name).read_text() == name for name in mine)
    assert len(list(tmp_path.iterdir())) == 2 + len(mine)


def test_a_plan_that_names_other_files_removes_none(net: ParallelNetwork, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    for name in ("notes.txt", "weights-mine.safetensors"):
        (tmp_path / name).write_text("mine")
    save_all(net, inner, 1)
    values = json.loads((inner / PLAN).read_text())
    names = ["../notes.txt", str(tmp_path / "notes.txt"), "../weights-mine.safetensors", "", "."]
    (inner / PLAN).write_text(json.dumps(values | {"replaces": [*names, 3, None]}))
    save_all(net, inner, 2)
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "weights-mine.safetensors").exists()
    assert value_of(inner) == 2


def test_the_plan_of_another_program_stays(net: ParallelNetwork, tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text('{"steps": ["buy milk"]}')
    with pytest.raises(StorageError, match=r"plan\.json of another program"):
        net.save(tmp_path)
    assert (tmp_path / PLAN).read_text() == '{"steps": ["buy milk"]}'
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\xff\x00", b"[" * 100_000, b"[]", b"{"])
def test_a_damaged_plan_is_replaced(net: ParallelNetwork, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / PLAN).write_bytes(damage)
    save_all(net, tmp_path, 3)
    assert value_of(tmp_path) == 3


# interruptions


def save_and_die(net: ParallelNetwork, path: Path, at: str) -> None:
    """Begin to save, and be killed before one of the calls of the operating system."""
    owner, name, count = {
        "draft": (os, "write", 1),
        "weights": (os, "write", 2),
        "publishing": (os, "replace", 1),
        "removing": (Path, "unlink", 1),
    }[at]
    function, calls = getattr(owner, name), []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, dying)
    save_all(net, path, 2)


@pytest.mark.parametrize("at", ["draft", "weights", "publishing", "removing"])
def test_who_is_killed_leaves_one_network_and_the_next_save_tidies_up(
    net: ParallelNetwork, tmp_path: Path, at: str
) -> None:
    save_all(net, tmp_path, 1)
    process = in_process(save_and_die, net, tmp_path, at)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert value_of(tmp_path) == (2 if at == "removing" else 1)
    assert len(list(tmp_path.iterdir())) > 2
    save_all(net, tmp_path, 3)
    assert value_of(tmp_path) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_drafts_of_other_machines_stay_for_a_day(
    net: ParallelNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(net, tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(draft, "machine", lambda: "elsewhr0")
        in_process(save_and_die, net, tmp_path, "publishing").join(60)
    left = {*tmp_path.iterdir()}
    assert len(left) == 4
    save_all(net, tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 4
    for file in tmp_path.glob(".saving-*"):
        os.utime(file, (0, time.time() - 25 * 3600))
    save_all(net, tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 2


def save_little(net: ParallelNetwork, path: Path) -> None:
    """Save where files may not be larger than the plan: a disk that fills up on the way."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (path / PLAN).stat().st_size + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with pytest.raises(StorageError, match=r"cannot be written \(File too large\); what was saved"):
        write(path, {"big": torch.zeros(size)}, net.plan)


def test_a_full_disk_leaves_the_old_network(net: ParallelNetwork, tmp_path: Path) -> None:
    save_all(net, tmp_path, 1)
    before = sorted(tmp_path.iterdir())
    process = in_process(save_little, net, tmp_path)
    process.join(60)
    assert process.exitcode == 0
    assert sorted(tmp_path.iterdir()) == before
    assert value_of(tmp_path) == 1


def test_weights_that_cannot_be_removed_are_named(
    net: ParallelNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    save_all(net, tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        with pytest.warns(UserWarning, match=r"weights-.* cannot be removed \(Permission denied"):
            save_all(net, tmp_path, 2)
    assert value_of(tmp_path) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_all(net, tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 2


# reading while others save


def test_a_folder_that_changes_all_the_time_is_given_up(
    net: ParallelNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_all(net, tmp_path, 0)
    counts = iter(range(10_000))

    def changing(path: Path) -> bytes:
        values = json.loads((path / PLAN).read_text())
        names = {"weights-0000000000000000.safetensors": str(next(counts))}
        return json.dumps({**values, "weights": names}).encode()

    monkeypatch.setattr("pararealize.storage.read._text", changing)
    with pytest.raises(StorageError, match="saved to 100 times while it was read"):
        read(tmp_path)


def test_weights_that_go_while_they_are_read(
    net: ParallelNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One saves between a reader's plan and its weights, again and again."""
    save_all(net, tmp_path, 0)
    values, text = random.Random(0).sample(range(1, 100), 5), read.__globals__["_text"]

    def late(path: Path) -> bytes:
        found: bytes = text(path)
        if values:
            save_all(net, path, values.pop())
        return found

    monkeypatch.setattr("pararealize.storage.read._text", late)
    assert value_of(tmp_path) > 0


# paths


@pytest.mark.parametrize("path", ["", "a\0b", None, 3, b"bytes"])
def test_what_names_no_folder(net: ParallelNetwork, path: Any) -> None:
    for act in (net.save, lambda path: load(path, odenet(9, width=8, in_features=6))):
        with pytest.raises(StorageError, match="is the name of no folder"):
            act(path)


@pytest.mark.parametrize("name", ["x" * 300, "\ud800"])
def test_names_that_no_file_can_have(net: ParallelNetwork, tmp_path: Path, name: str) -> None:
    for act in (net.save, lambda path: load(path, odenet(9, width=8, in_features=6))):
        with pytest.raises(StorageError):
            act(tmp_path / name)


def test_a_file_for_a_folder(net: ParallelNetwork, tmp_path: Path) -> None:
    (tmp_path / "net").write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        net.save(tmp_path / "net")
    with pytest.raises(StorageError, match="cannot be written"):
        net.save("/proc/nowhere/net")
