"""Options of MGRIT: what they accept, what they refuse and how they say so, how they are saved."""

import json
from typing import Any

import pytest
from torch import nn

from pararealize.errors import MethodError
from pararealize.ir.methods import MGRIT, Method
from pararealize.ir.saved_factory import with_factory
from pararealize.ir.serialise import read, values_of

NO_NUMBERS = ("a", None, True, float("nan"))

BAD: list[tuple[str, Any]] = [
    *(("levels", value) for value in (1, 0, -1, 2.0, True, "2", None)),
    *(("coarse", value) for value in ("fancy", None, 3, ["mean"], "network", "fine")),
    *(("cycle", value) for value in ("W", "v", None, len)),
    *(("guess", value) for value in ("network", None, 0)),
    *(("storage", value) for value in ("none", True)),
    *(("batched", value) for value in ("yes", True, None)),
    *(("relaxation", value) for value in ("", "C", "FC", "CF", "FF", "f", "FCFC", None, 3)),
    *(
        (name, value)
        for name in ("samples", "forward_cycles", "backward_cycles", "max_cycles")
        for value in (0, -1, 1.0, True, "1", None)
    ),
    *(("seed", value) for value in (-1, 0.5, None)),
    *(("wanted_error", value) for value in (0, -0.1, *NO_NUMBERS)),
    *(("guard", value) for value in (0, -1.0, *NO_NUMBERS)),
    *(("tolerance", value) for value in (0, -1e-3, "small", False, float("nan"))),
    *(("bias_bound", value) for value in (0, -1, "small", True, float("nan"))),
]

BAD_COARSENING: list[tuple[int, Any]] = [
    *((2, value) for value in (1, 0, -2, 2.0, "8", None, True, (), (1,), (2, 2), (2.0,), [True])),
    *((3, value) for value in (1, (2,), [2, 1], (2, 2, 2), [4, "2"])),
]


def make(fine: nn.Module, source: object, target: object) -> nn.Module:
    return nn.Identity()


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_option_is_named(name: str, value: Any) -> None:
    with pytest.raises(MethodError) as caught:
        MGRIT(**{name: value})
    assert f"MGRIT({name}={value!r}): expected" in str(caught.value)


@pytest.mark.parametrize(("levels", "value"), BAD_COARSENING)
def test_bad_coarsening_says_how_many_factors(levels: int, value: Any) -> None:
    with pytest.raises(MethodError) as caught:
        MGRIT(levels=levels, coarsening=value)
    message = str(caught.value)
    assert f"MGRIT(levels={levels}, coarsening={value!r}): expected one factor of 2 or" in message
    assert f"or {levels - 1} of them" in message
    assert message.endswith(f"MGRIT(levels={levels}, coarsening=8).")


@pytest.mark.parametrize("name", MGRIT.CHOICES)
def test_every_choice_is_accepted_and_listed(name: str) -> None:
    for value in MGRIT.CHOICES[name]:
        assert getattr(MGRIT(**{name: value}), name) == value
    with pytest.raises(MethodError) as caught:
        MGRIT(**{name: "other"})
    assert all(repr(value) in str(caught.value) for value in MGRIT.CHOICES[name])


def test_good_options_are_kept() -> None:
    assert MGRIT(relaxation="FCFCF").sweeps == 2
    assert MGRIT(relaxation="F").sweeps == 0
    assert MGRIT(levels=4, coarsening=3).factors == (3, 3, 3)
    assert MGRIT(levels=3, coarsening=(4, 2)).factors == (4, 2)
    assert MGRIT(levels=3, coarsening=[4, 2]).coarsening == (4, 2)  # type: ignore[arg-type]
    assert MGRIT(levels=2, coarsening=(5,)).factors == (5,)
    assert MGRIT(tolerance=1, bias_bound=2, guard=3, wanted_error=4).guard == 3
    assert MGRIT(coarse=make).coarse is make


@pytest.mark.parametrize(
    "method",
    [
        MGRIT(),
        MGRIT(levels=3, coarsening=(4, 2), cycle="F", relaxation="FCF", guess="full"),
        MGRIT(levels=4, coarsening=2, coarse="mean", tolerance=1e-3, bias_bound=0.1),
        MGRIT(
            **{"samples": 3, "wanted_error": 0.1, "forward_cycles": 2, "backward_cycles": 3},
            **{"max_cycles": 5, "guess": "previous", "guard": 0.9, "storage": "points"},
            **{"batched": "never", "seed": 7, "coarse": "fitted"},
        ),
    ],
)
def test_json_round_trip(method: MGRIT) -> None:
    """Tuples are lists in JSON, and tuples again afterwards."""
    values = json.loads(json.dumps(values_of(method)))
    assert values == values_of(method)
    assert values["method"] == "mgrit"
    found = read(Method, values)
    assert found == method
    assert isinstance(found, MGRIT)
    assert type(found.coarsening) is type(method.coarsening)
    assert hash(found) == hash(method)


def test_a_callable_is_named_and_given_again() -> None:
    values = json.loads(json.dumps(values_of(MGRIT(coarse=make))))
    assert values["coarse"] == "callable:make"
    assert with_factory(read(Method, values), make) == MGRIT(coarse=make)
    with pytest.raises(MethodError, match=r"callable:make.*load\(path, model, coarse=function\)"):
        with_factory(read(Method, values), None)


@pytest.mark.parametrize(
    "changed",
    [{"colour": 3}, {"levels": "two"}, {"levels": 1}, {"coarsening": "8"}, {"cycle": "W"}],
)
def test_damaged_options_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        read(Method, {**values_of(MGRIT()), **changed})
