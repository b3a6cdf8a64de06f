"""Lock: calls of one network one after another, from however many threads."""

from __future__ import annotations

from threading import RLock
from types import TracebackType
from typing import Any, final


@final
class Lock:
    """A reentrant lock that copies and pickles as a new one, as a copied network has its own.

    While a network runs, its layers' statistics may be set aside, its masks are those of one step,
    and its report is that of one call.
    """

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def __deepcopy__(self, _memo: dict[int, Any]) -> Lock:
        """Another lock."""
        return Lock()

    def __reduce__(self) -> tuple[type[Lock], tuple[()]]:
        """Another lock, wherever it is loaded."""
        return Lock, ()
