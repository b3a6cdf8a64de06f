"""Compile all of torchvision's classification models and compare each with the original.

    python examples/coverage.py                    all of them
    python examples/coverage.py --families         the smallest of each family
    python examples/coverage.py resnet18 vit_b_16  these

Exits 1 if one does not compile, differs by more than the tolerance, or loses its weights.
"""

from __future__ import annotations

import argparse
import sys

from pararealize.cli.specs import load_model
from studies.coverage import CoverageRow, cover_all, family, names, table
from studies.running import start


def smallest(specs: list[str]) -> list[str]:
    """Of every family, the model with the fewest parameters."""
    best: dict[str, tuple[int, str]] = {}
    for spec in specs:
        size = sum(p.numel() for p in load_model(spec).parameters())
        key = family(spec)
        best[key] = min(best.get(key, (size, spec)), (size, spec))
    return [spec for _, spec in best.values()]


def fails(row: CoverageRow, tolerance: float) -> bool:
    """Whether the network is not the same one."""
    worst = max(row.worst("outputs"), row.worst("gradient"))
    return bool(row.error) or not row.state or not worst <= tolerance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--families", action="store_true")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    specs = [f"torchvision:{name}" for name in options.models] or names()
    specs = smallest(specs) if options.families else specs
    rows = []
    for row in cover_all(specs):
        rows.append(row)
        worst = max(row.worst("outputs"), row.worst("gradient"))
        print(
            f"{len(rows)}/{len(specs)} {row.model} {row.error or f'{worst:.0e}'}", file=sys.stderr
        )
    print(table(rows).text(120))
    failed = [row.model for row in rows if fails(row, options.tolerance)]
    print(f"{len(rows) - len(failed)} of {len(rows)} equal the original; not: {failed or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    start(main)
