"""Launching: what is refused, which mpiexec runs, and who speaks first."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pararealize.cli import launch as launching
from pararealize.cli.launch import ALLOCATORS, is_first, launch, mpiexec, run
from pararealize.errors import MethodError, RankError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would have been run; the folder is looked at while it exists."""
    found: dict[str, Any] = {}

    def call(command: list[str], env: dict[str, str]) -> int:
        found.update(command=command, env=env, folder=Path(command[-1]))
        found["was there"] = found["folder"].is_dir()
        return 7

    monkeypatch.setattr(launching, "run", call)
    return found


def test_mpiexec_is_found_and_runs() -> None:
    found = mpiexec()
    assert os.access(found, os.X_OK)
    assert Path(found).name == "mpiexec"


def test_mpiexec_passes_exit_codes_on() -> None:
    command = [mpiexec(), "-n", "2", sys.executable, "-S", "-c", "raise SystemExit(2)"]
    assert subprocess.call(command) == 2


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(2)", []),
        ("import sys; print('one paragraph', file=sys.stderr); sys.exit(3)", ["one paragraph"] * 2),
        ("import sys; sys.stderr.write('no end of line'); sys.exit(2)", ["no end of line"] * 2),
    ],
)
def test_mpi_adds_nothing_to_what_ranks_say(
    code: str, said: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The first rank that ends so ends the others, perhaps before they have said it as well."""
    command = [mpiexec(), "-n", "2", sys.executable, "-m", "mpi4py", "-c", code]
    assert run(command, os.environ) == int(code.rpartition("(")[2].rstrip(")"))
    found = capfd.readouterr().err
    assert "Abort" not in found
    assert bool(said) == bool(found)
    for text in set(said):
        assert 1 <= found.count(text) <= 2


@pytest.mark.parametrize(
    ("sent", "said"),
    [(9, "a rank was killed by the system"), (11, "(SIGSEGV)"), (6, "(SIGABRT)")],
)
def test_one_paragraph_says_that_a_rank_was_ended(
    sent: int, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the box that mpiexec draws; what the ranks print stays, whichever stream it is on."""
    code = "import os, sys; print('said', flush=True); print('=' * 20, file=sys.stderr, flush=True)"
    killed = [sys.executable, "-S", "-c", f"{code}; os.kill(os.getpid(), {sent})"]

    def short(command: list[str], env: dict[str, str]) -> int:
        return run([*command[:3], *killed], env)

    monkeypatch.setattr(launching, "run", short)
    assert launch(["check"], 1) not in {0, 1, 2}
    out, err = capfd.readouterr()
    assert out.split() == ["said"]
    rule, paragraph = err.splitlines()
    assert rule == "=" * 20
    assert paragraph.startswith("pararealize: a rank ")
    assert said in paragraph


def test_the_mpiexec_beside_python_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    for folder in (beside, elsewhere):
        folder.mkdir()
        (folder / "mpiexec").touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(elsewhere))
    assert mpiexec() == str(beside / "mpiexec")
    (beside / "mpiexec").unlink()
    assert mpiexec() == str(elsewhere / "mpiexec")
    (elsewhere / "mpiexec").unlink()
    found = r'mpiexec is neither .* PATH; .*pip install "pararealize\[mpi\]"\.$'
    with pytest.raises(RankError, match=found):
        mpiexec()


@pytest.mark.parametrize("ranks", [0, -1])
def test_at_least_one_rank_is_started(ranks: int, started: dict[str, Any]) -> None:
    with pytest.raises(RankError, match=rf"--ranks {ranks}: expected 1 to"):
        launch(["bench"], ranks)
    assert not started


def test_allocators_are_known_by_name(started: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match="'jemalloc': expected one of default, heap"):
        launch(["bench"], 2, "jemalloc")
    assert not started


def test_the_command_runs_on_every_rank_in_a_folder_that_goes_away(
    started: dict[str, Any],
) -> None:
    assert launch(["bench", "a b", "--ranks", "3"], 3) == 7
    command = started["command"]
    assert command[:3] == [mpiexec(), "-n", "3"]
    assert command[3:8] == [sys.executable, "-m", "mpi4py", "-m", "pararealize"]
    assert command[8:-1] == ["bench", "a b", "--ranks", "3", "--worker"]
    assert started["was there"]
    assert not started["folder"].exists()


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_ranks_inherit_the_environment_and_the_allocator(
    allocator: str, started: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ALLOCATORS["heap"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOME_SETTING", "kept")
    launch(["bench"], 2, allocator)
    assert started["env"] == {**os.environ, **ALLOCATORS[allocator]}
    assert started["env"]["SOME_SETTING"] == "kept"
    assert ("MALLOC_MMAP_THRESHOLD_" in started["env"]) is (allocator == "heap")


def test_one_rank_is_the_first(tmp_path: Path) -> None:
    assert is_first(str(tmp_path))
    assert not is_first(str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    assert is_first(str(other))


def test_one_of_many_ranks_is_the_first(tmp_path: Path) -> None:
    gate, found = threading.Barrier(8), []

    def ask() -> None:
        gate.wait(30)
        found.append(is_first(str(tmp_path)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]


def test_nobody_speaks_where_the_folder_is_gone(tmp_path: Path) -> None:
    assert not is_first(str(tmp_path / "gone"))
