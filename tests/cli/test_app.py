"""What the application itself answers: its version, and what a shell may complete."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import pararealize

PROGRAM = [sys.executable, "-m", "pararealize"]


def ran(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_the_version_is_printed() -> None:
    done = ran("--version")
    assert done.returncode == 0
    assert done.stdout == f"pararealize {pararealize.__version__}, torch {torch.__version__}\n"


@pytest.mark.rest
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("pararealize co", "convert"),
        ("pararealize ch", "check"),
        ("pararealize demo --ep", "--epochs"),
    ],
)
def test_a_shell_is_told_what_may_follow(line: str, wanted: str) -> None:
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    done = ran(_PARAREALIZE_COMPLETE="complete_bash", **asked)
    assert wanted in done.stdout.split(), done.stderr
