"""Compile networks that nobody here chose by the plain line, and compare each with the original.

    python examples/coverage.py                        all groups: hours
    python examples/coverage.py styles torchvision     these groups
    python examples/coverage.py styles:U-Net timm:vgg  networks of them whose names contain this
    python examples/coverage.py --table                the table of what is there, for a page

Groups: styles (networks written by hand, ``examples/styles``), torchvision (segmentation,
detection, video), timm (one network a family), transformers (small configurations), and
classifiers, all of torchvision's. Each question about a network has a process and a time limit of
its own; results are appended to a file, so that what was interrupted goes on. What has no answer
in time is ``late``. Exits 1 if one is wrong or crashes.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TypeVar

import torch

from studies.architectures import ARCHITECTURES
from studies.coverage import cover, names
from studies.coverage_table import counts, details, of_cover
from studies.plain_line import Fared, by_default, fare, without_inputs
from studies.processes import FailedError, in_processes
from studies.running import start
from studies.subjects import Subject
from studies.zoos import TORCHVISION, timm_families
from styles import STYLES

GROUPS = ("styles", "torchvision", "timm", "transformers", "classifiers")
FILE = Path("coverage.jsonl")
LATE = "no answer within"
#: Seconds that may go by for each one of the processor.
PATIENCE = 10
T = TypeVar("T")


def subjects(group: str) -> Mapping[str, Subject | None]:
    """The networks of a group by name; classifiers are asked more than the others."""
    if group == "classifiers":
        return dict.fromkeys(spec.partition(":")[2] for spec in names())
    if group == "timm":
        return timm_families()
    return {"styles": STYLES, "torchvision": TORCHVISION, "transformers": ARCHITECTURES}[group]


def study(name: str, subject: Subject | None, seconds: float, *, defaults: bool) -> Fared:
    """How one network fares, each question about it in a process and a time of its own."""
    if subject is None:
        return _asked(lambda: of_cover(cover(f"torchvision:{name}")), name, seconds)
    row = _asked(partial(fare, name, subject), name, seconds)
    row = replace(row, plain=_said(partial(without_inputs, subject), seconds))
    if defaults and row.n:
        row = replace(row, default=_said(partial(by_default, subject, row.n), seconds))
    return row


def _asked(job: Callable[[], Fared], name: str, seconds: float) -> Fared:
    try:
        return _alone(job, seconds)
    except FailedError as error:
        return Fared(name, "late" if LATE in str(error) else "crash", str(error))


def _said(job: Callable[[], str], seconds: float) -> str:
    try:
        return _alone(job, seconds)
    except FailedError as error:
        return f"{'late' if LATE in str(error) else 'crash'}: {error}"


def _alone(job: Callable[[], T], seconds: float) -> T:
    """What it gives in a process of its own, for so long: others may use the processor too."""

    def limited() -> T:
        resource.setrlimit(resource.RLIMIT_CPU, (ceil(seconds), resource.RLIM_INFINITY))
        return job()

    try:
        return in_processes([limited], PATIENCE * seconds)[0]
    except FailedError as error:
        if f"code {-signal.SIGXCPU}" in str(error):
            raise FailedError(f"{LATE} {seconds:g} seconds") from None
        raise


def known(file: Path) -> dict[tuple[str, str], Fared]:
    """What the file says, the last of each network."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    read = [json.loads(line) for line in lines]
    return {(r.pop("group"), r["name"]): Fared(**r) for r in read}


def chosen(wanted: list[str]) -> dict[tuple[str, str], Subject | None]:
    """Networks by group and name, as the arguments want them."""
    found = {}
    for each in wanted or list(GROUPS):
        group, _, part = each.partition(":")
        if group not in GROUPS:
            raise SystemExit(f"no group {group!r}: one of {', '.join(GROUPS)}")
        found |= {(group, k): v for k, v in subjects(group).items() if part in k}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wanted", nargs="*", metavar="GROUP[:PART]")
    parser.add_argument("--file", type=Path, default=FILE, help="where results are appended")
    parser.add_argument("--again", action="store_true", help="also those that the file has")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="of the processor, longest for one question"
    )
    parser.add_argument("--exactly", action="store_true", help="not by default")
    parser.add_argument("--table", action="store_true", help="only print what the file has")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = known(options.file)
    todo = {} if options.table else chosen(options.wanted)
    for (group, name), subject in todo.items():
        if (group, name) in rows and not options.again:
            continue
        row = study(name, subject, options.seconds, defaults=not options.exactly)
        rows[group, name] = row
        print(f"{group} {name}: {row.outcome} {row.why[:100]}", file=sys.stderr, flush=True)
        with options.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"group": group, **asdict(row)}) + "\n")
    shown = {key: row for key, row in rows.items() if options.table or key in todo}
    print(counts(shown))
    print(details(shown))
    sys.exit(any(row.outcome in {"wrong", "crash"} for row in shown.values()))


if __name__ == "__main__":
    start(main)
