"""Extras: optional packages, and what installs them where one is missing."""

from __future__ import annotations

#: The extra of this package that brings an optional one.
EXTRAS = {"typer": "cli", "rich": "cli", "matplotlib": "cli", "mpi4py": "mpi", "mpich": "mpi"}


def missing(package: str) -> str:
    """A sentence that says how a missing package is installed."""
    return f'{package} is not installed: pip install "pararealize[{EXTRAS[package]}]".'
