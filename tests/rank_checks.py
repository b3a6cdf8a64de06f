"""Checks on ranks: programs under mpiexec, all checks of as many ranks in the same processes.

Starting Python and importing torch takes longer than most checks do. So every check that has been
selected for as many ranks runs in one launch, and each is a test by itself: one that fails ends its
launch, and another one runs the checks behind it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pararealize.cli.launch import mpiexec

PROGRAMS = Path(__file__).parent / "programs"

#: Launches for as many ranks, after which what is left of the checks is given up.
LAUNCHES = 6

#: Seconds for all checks of a launch; a check that hangs ends sooner, by the program's own limit.
LIMIT = 900.0


@dataclass(frozen=True)
class Check:
    """A function of ``programs/<program>.py``, on so many ranks, over ``"mpi"`` or ``"gloo"``."""

    ranks: int
    program: str
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.program}.{self.name}@{self.kind}"


@dataclass
class Run:
    """A program that ended."""

    code: int
    text: str
    seconds: float


def start(ranks: int, program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    return subprocess.Popen(
        [*command, str(PROGRAMS / program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(process: subprocess.Popen[str], limit: float) -> Run:
    begin = time.monotonic()
    try:
        text, _ = process.communicate(timeout=limit)
    finally:
        process.kill()
    return Run(process.returncode, text, time.monotonic() - begin)


def run(ranks: int, program: str, *arguments: str, limit: float = LIMIT) -> Run:
    return wait(start(ranks, program, *arguments), limit)


def names_in(program: str) -> list[str]:
    """The names in ``CHECKS`` of the program, which only ranks can import: it starts MPI."""
    for node in ast.parse((PROGRAMS / f"{program}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CHECKS":
            return [ast.unparse(name) for name in node.value.elts]
    raise AssertionError(f"{program}.py has no CHECKS")


def checks_of(program: str, places: Sequence[tuple[int, str]]) -> list[Check]:
    """All checks of a program, on so many ranks over such a transport each."""
    return [Check(n, program, name, kind) for n, kind in places for name in names_in(program)]


@dataclass
class Verdicts:
    """What came of checks: what each that failed has to say. Launches when first asked.

    With ``every``, as many random networks are drawn as ``pytest --all`` does, else a sample.
    """

    selected: Sequence[Check]
    folder: Path
    every: bool = False
    _found: dict[Check, str] = field(default_factory=dict)

    def of(self, check: Check) -> str:
        """Why the check failed; nothing where it passed."""
        if check not in self._found:
            alike = [other for other in self.selected if other.ranks == check.ranks]
            self._found.update(verdicts(alike, self.folder / str(check.ranks), every=self.every))
        return self._found[check]


def verdicts(checks: Sequence[Check], folder: Path, *, every: bool) -> Iterator[tuple[Check, str]]:
    """Checks of as many ranks, and why each failed; another launch runs those behind a failure."""
    left, last = list(checks), ""
    for number in range(LAUNCHES):
        if not left:
            return
        passed, last = launched(left, folder / str(number), every=every)
        yield from ((check, "") for check in left[:passed])
        yield from ((check, last) for check in left[passed : passed + 1])
        left = left[passed + 1 :]
    for check in left:
        yield (
            check,
            f"{check} did not run: {LAUNCHES} launches ended early, the last one by:\n{last}",
        )


def launched(checks: Sequence[Check], folder: Path, *, every: bool) -> tuple[int, str]:
    """How many of the checks passed in one launch, and what the one behind them, if any, says."""
    folder.mkdir(parents=True)
    try:
        names = [*map(str, checks), *(["--all"] if every else [])]
        done = run(checks[0].ranks, "checks.py", str(folder), *names)
    except subprocess.TimeoutExpired:
        done = Run(-1, f"not at an end within {LIMIT:.0f} s", LIMIT)
    passed = [(folder / f"{check}.passed").exists() for check in checks]
    count = [*passed, False].index(False)
    if count == len(checks):
        # All passed; the processes have to end as well.
        return (count, "") if done.code == 0 else (count - 1, done.text[-4000:])
    said = folder / f"{checks[count]}.failed"
    words = said.read_text(encoding="utf-8") if said.exists() else done.text[-4000:]
    return count, f"{checks[count]} on {checks[count].ranks} ranks: exit code {done.code}\n{words}"
