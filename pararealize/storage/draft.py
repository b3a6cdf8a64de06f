"""PlanDraft: a plan on its way into a folder, and the files that come and go with it."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from pararealize.errors import StorageError
from pararealize.storage.folder import TEMPORARY, create, keep_renames, locked, machine
from pararealize.storage.read import PLAN, seal

#: What files of weights are called, and what is removed has to be called.
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")

#: Seconds after which nobody is saving any more, whatever other machines may be doing.
ABANDONED = 24 * 3600.0


@final
class PlanDraft:
    """A plan that names files of weights before they are there, and becomes the folder's plan.

    What a killed process leaves is then named: by its draft, or by the plan that it published.
    """

    def __init__(self, folder: Path, document: dict[str, Any]) -> None:
        self.folder, self.document = folder, document
        self.path = folder / f"{TEMPORARY}{machine()}-{secrets.token_hex(8)}"
        self._replaced: set[str] = set()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """A block in which the files are written; at its end what nobody needs is removed.

        Raises:
            OSError: the draft cannot be written.
            StorageError: the plan of another program is in the way.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder) as alone:
            left = _left(self.folder, alone=alone)
            self._replaced = _replaced(self.folder)
            values = seal({**self.document, "replaces": sorted(self._replaced)})
            create(self.path, json.dumps(values, indent=2).encode())
            try:
                yield
            finally:  # also where it is interrupted: the draft is there, or it is published
                _remove(self.folder, self._superfluous() | left)

    def publish(self) -> None:
        """Make it the folder's plan, in one step.

        Raises:
            OSError: that cannot be done; the old plan stays.

        """
        self._replaced |= _replaced(self.folder)  # without a lock there may be another by now
        os.replace(self.path, self.folder / PLAN)
        keep_renames(self.folder)

    def _superfluous(self) -> set[str]:
        own = set(self.document["weights"])
        return {*own, self.path.name} if self.path.exists() else self._replaced - own


def _replaced(folder: Path) -> set[str]:
    """The files of the folder's plan, and those that it replaced.

    Raises:
        StorageError: the plan is not this package's.

    """
    values = _values(folder / PLAN)
    if isinstance(values, dict) and not {"format", "weights", "plan"} <= set(values):
        raise StorageError(
            f"{folder} holds the {PLAN} of another program, which would be lost: choose another "
            f"folder, or remove {folder / PLAN}."
        )
    return _named(values)


def _left(folder: Path, *, alone: bool) -> set[str]:
    """Drafts that killed processes left, and the files that those name.

    Who is ``alone`` knows that nobody of this machine is saving now; of others only time tells.
    """
    found: set[str] = set()
    for draft in folder.glob(f"{TEMPORARY}*"):
        ours = draft.name.startswith(f"{TEMPORARY}{machine()}-")
        if (alone and ours) or _age(draft) > ABANDONED:
            found |= {draft.name} | _named(_values(draft))
    return found


def _age(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except OSError:  # it has just gone
        return 0.0


def _values(file: Path) -> Any:
    """What a JSON file says; nothing where it cannot be read: then it may be replaced."""
    try:
        return json.loads(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def _named(values: Any) -> set[str]:
    """Files of weights that a plan names; others are never removed, whatever it says."""
    if not isinstance(values, dict):
        return set()
    lists = (values.get("weights"), values.get("replaces"))
    names = {str(name) for each in lists if isinstance(each, (dict, list)) for name in each}
    return {name for name in names if WEIGHTS.fullmatch(name)}


def _remove(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(
                f"{folder / name} is not needed any more, and cannot be removed "
                f"({error.strerror or error}): remove it, or save again.",
                stacklevel=2,
            )
