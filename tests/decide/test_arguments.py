"""Options of the wrong kind, and of sizes that nothing has: a sentence at once, nothing raw."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from pararealize import MGRIT, Fitting, Machine, Parareal, pararealize
from pararealize.errors import PararealizeError
from pararealize.models import odenet

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "n": (0, -1, 10**9, 10**5000, NAN, INF, True, None, "x", [], 2.0),
        "method": ("parareal", 3, [], Parareal),
        "interfaces": (0, NAN, True, "steps", (1,), [None]),
        "leaf_modules": (0, None, "steps", (1,), [None]),
        "concrete_args": (-1, True, "x", (1,), [2]),
        "blocks": (3, ["steps"]),
        "cost": ("free", None, [], {}),
        "machine": (1e9, "fast", {}, Machine),
        "devices": (1, True, "x", ["nowhere"], (object(),)),
        "chunks": (0, -1, 2, "x", NAN),
    }.items(),
)
def test_arguments_of_the_wrong_kind(name: str, values: tuple[Any, ...]) -> None:
    model, x = odenet(5, width=4, in_features=6), torch.randn(2, 6)
    for value in values:
        if not value and name == "machine":
            continue
        start = time.perf_counter()
        with pytest.raises(PararealizeError, match=name) as caught:
            pararealize(model, **{"n": 2, "example_inputs": (x,), name: value})
        assert time.perf_counter() - start < 10
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (MGRIT, "levels", (1, 65, 10**9, 10**5000, NAN)),
        (MGRIT, "coarsening", (1, 10**30, NAN, (2, 2), ())),
        (MGRIT, "forward_cycles", (0, 10**30, NAN, INF)),
        (MGRIT, "relaxation", ("", "F" + "CF" * 10**5, NAN, 3)),
        (MGRIT, "tolerance", (0, -1, NAN, 10**5000, "x")),
        (MGRIT, "guard", (0, NAN, None)),
        (MGRIT, "seed", (-1, 10**30, NAN)),
        (Parareal, "seed", (-1, 10**30, 0.5)),
        (Parareal, "iterations", (-1, 10**30, NAN, INF)),
        (Parareal, "tolerance", (-1, NAN, 10**5000)),
        (Parareal, "coarse_depth", (-1, (), (1, NAN), 10**30)),
        (Fitting, "rate", (None, 0, NAN, INF, 1e300)),
        (Fitting, "held_out", (None, 0, 1, NAN)),
        (Fitting, "limit", (0, NAN, 10**5000)),
        (Fitting, "epochs", (-1, NAN, 10**30)),
        (Machine, "link_latency", (-1, NAN, INF, 1e300, None, "x", [])),
        (Machine, "flops_per_second", (0, NAN, None, "x", ())),
    ],
)
def test_options_of_no_size(kind: Any, name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(PararealizeError, match=name):
            kind(**{name: value})
