"""What can be compiled, and copies of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pararealize.errors import NotAModuleError, TraceError
from pararealize.tracing.module import copy_module


class Lock(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.generator = (i for i in range(3))


@pytest.mark.parametrize("thing", [3, "model", None, torch.zeros(2), lambda x: x])
def test_only_modules_are_copied(thing: object) -> None:
    with pytest.raises(NotAModuleError, match=r"expected a torch\.nn\.Module"):
        copy_module(thing)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_copied_is_named() -> None:
    with pytest.raises(TraceError, match="Lock cannot be copied"):
        copy_module(Lock())
