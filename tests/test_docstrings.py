"""The examples in docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

#: Where an example stands; a docstring with one more is found by the last test.
SHOWN = (
    "pararealize",
    "pararealize.ir.methods",
    "pararealize.layers.parallel",
    "pararealize.loading",
)


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_an_example_gives_what_it_says(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0
