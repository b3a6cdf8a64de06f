"""Compile networks that nobody here chose by the plain line, and compare each with the original.

    python examples/coverage.py                        all groups: hours
    python examples/coverage.py styles torchvision     these groups
    python examples/coverage.py styles:U-Net timm:vgg  networks of them whose names contain this
    python examples/coverage.py --table                the table of what is there, for a page

Groups: styles (networks written by hand, ``examples/styles``), torchvision (segmentation,
detection, video), timm (one network a family), transformers (small configurations), and
classifiers, all of torchvision's. Each network has a process and a time limit of its own; results
are appended to a file, so that what was interrupted goes on. What has no answer in time is
``late``. Exits 1 if one is wrong or crashes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from studies.architectures import ARCHITECTURES
from studies.coverage import cover, names
from studies.coverage_table import counts, details, of_cover
from studies.plain_line import Fared, fare
from studies.processes import FailedError, in_processes
from studies.running import start
from studies.subjects import Subject
from studies.zoos import TORCHVISION, timm_families
from styles import STYLES

GROUPS = ("styles", "torchvision", "timm", "transformers", "classifiers")
FILE = Path("coverage.jsonl")


def subjects(group: str) -> Mapping[str, Subject | None]:
    """The networks of a group by name; classifiers are asked more than the others."""
    if group == "classifiers":
        return dict.fromkeys(spec.partition(":")[2] for spec in names())
    if group == "timm":
        return timm_families()
    return {"styles": STYLES, "torchvision": TORCHVISION, "transformers": ARCHITECTURES}[group]


def study(name: str, subject: Subject | None, seconds: float, *, plainly: bool) -> Fared:
    """How one network fares in a process of its own, at last without what took too long."""
    if subject is None:
        work = [lambda: of_cover(cover(f"torchvision:{name}"))]
    else:
        work = [
            partial(fare, name, subject, plainly=plain) for plain in (True, False)[not plainly :]
        ]
    for last, job in enumerate(work, 1):
        try:
            return in_processes([job], seconds)[0]
        except FailedError as error:
            said = str(error)
            if last == len(work):
                return Fared(name, "late" if "seconds" in said else "crash", said)
    raise AssertionError


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
    parser.add_argument("--seconds", type=float, default=120.0, help="longest for one network")
    parser.add_argument("--exactly", action="store_true", help="not without inputs, nor by default")
    parser.add_argument("--table", action="store_true", help="only print what the file has")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = known(options.file)
    todo = {} if options.table else chosen(options.wanted)
    for (group, name), subject in todo.items():
        if (group, name) in rows and not options.again:
            continue
        row = study(name, subject, options.seconds, plainly=not options.exactly)
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
