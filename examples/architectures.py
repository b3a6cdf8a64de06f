"""Compile small networks of ``transformers`` by the plain line, and compare each with the original.

    python examples/architectures.py                all of them
    python examples/architectures.py BERT "GPT-2"   these

Exits 1 if one is wrong or crashes.
"""

from __future__ import annotations

import argparse
import sys

import torch

from studies.architectures import ARCHITECTURES
from studies.plain_line import counts, fare, table
from studies.running import start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ARCHITECTURES)}")
    names = parser.parse_args().names or list(ARCHITECTURES)
    torch.set_num_threads(1)
    rows = []
    for name in names:
        rows.append(fare(name, ARCHITECTURES[name]))
        print(f"{len(rows)}/{len(names)} {name} {rows[-1].outcome}", file=sys.stderr)
    print(table(rows).text(140))
    print(counts(rows))
    sys.exit(any(row.outcome in {"wrong", "crash"} for row in rows))


if __name__ == "__main__":
    start(main)
