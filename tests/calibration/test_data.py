"""Data as batches of named inputs, and which of them are held out."""

from __future__ import annotations

import pytest
import torch

from pararealize.calibration.data import Inputs, batches, divided
from pararealize.errors import CalibrationError
from pararealize.ir.chain import TensorSpec

SPECS = {"x": TensorSpec((4, 3), torch.float32), "y": TensorSpec((4, 1), torch.int64)}


def given(count: int, size: int = 2) -> list[Inputs]:
    return [{"x": torch.full((size, 1), float(i))} for i in range(count)]


@pytest.mark.parametrize(
    ("count", "share", "held_out"),
    [
        (10, 0.2, [4, 9]),
        (9, 0.2, [4]),
        (3, 0.2, [2]),
        (2, 0.1, [1]),
        (6, 0.5, [1, 3, 5]),
        (4, 0.9, [1, 3]),
    ],
)
def test_one_batch_in_so_many_is_held_out(count: int, share: float, held_out: list[int]) -> None:
    found = list(divided(given(count), share))
    assert [i for i, (_, held) in enumerate(found) if held] == held_out
    assert [float(inputs["x"][0]) for inputs, _ in found] == list(range(count))


def test_a_single_batch_is_cut_in_two() -> None:
    (fitted, first), (held_out, second) = divided(given(1, 10), 0.2)
    assert (len(fitted["x"]), len(held_out["x"]), first, second) == (8, 2, False, True)
    with pytest.raises(CalibrationError, match="one sample"):
        list(divided(given(1, 1), 0.2))


def test_tuples_are_in_the_order_of_the_inputs_and_the_rest_are_labels() -> None:
    x, y = torch.ones(2, 3), torch.ones(2, 1, dtype=torch.int64)
    for data in ([(x, y, "label")], [{"label": 0, "y": y, "x": x}]):
        (found,) = batches(data, SPECS, {}, 4)
        assert found["x"] is x
        assert found["y"] is y
    with pytest.raises(CalibrationError, match=r"'y'.*\(x, y\)"):
        list(batches([(x,)], SPECS, {}, 4))


def test_what_is_wrong_is_named() -> None:
    x, y = torch.ones(2, 3), torch.ones(2, 1, dtype=torch.int64)
    broken = x.clone()
    broken[1, 2] = torch.nan
    good = (x, y)
    for bad, words in (
        ((x.double(), y), None),
        ((x[:, :2], y), r"batch 2 .*\[2, 2\].*\[batch, 3\]"),
        ((x[0], y), r"\[3\] for the input 'x'"),
        ((x, y.float()), "float32 for the input 'y'"),
        ((broken, y), "sample 1 of it"),
    ):
        if words is None:
            assert len(list(batches([good, bad], SPECS, {}, 4))) == 2
            continue
        with pytest.raises(CalibrationError, match=words):
            list(batches([good, bad], SPECS, {}, 4))
