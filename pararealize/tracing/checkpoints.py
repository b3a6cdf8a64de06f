"""Checkpoints: which operations a forward runs under ``torch.utils.checkpoint``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from torch.utils import checkpoint


@contextmanager
def seen(region: Callable[[bool], AbstractContextManager[None]]) -> Iterator[None]:
    """Run every function under a checkpoint within ``region(preserve_rng_state)`` instead.

    ``torch.utils.checkpoint.checkpoint`` does its work by two names of its module, whoever has
    imported it how: those are replaced for a while.
    """

    def without_reentry(
        _function: Any, preserve_rng_state: bool = True, *_rest: Any, **_more: Any
    ) -> Iterator[None]:
        with region(preserve_rng_state):
            yield

    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        with region(preserve_rng_state):
            return function(*args)

    reentrant = SimpleNamespace(apply=apply)
    with (
        mock.patch.object(checkpoint, "_checkpoint_without_reentrant_generator", without_reentry),
        mock.patch.object(checkpoint, "CheckpointFunction", reentrant),
    ):
        yield
