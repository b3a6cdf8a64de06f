"""Options of the methods: what they accept, how they are saved."""

import json
from typing import Any

import pytest
from torch import nn

from pararealize.errors import MethodError, PararealizeError
from pararealize.ir.methods import Method, Parareal
from pararealize.ir.saved_factory import with_factory
from pararealize.ir.serialise import read, values_of

BAD: list[tuple[str, Any]] = [
    ("coarse", "fancy"),
    ("coarse", None),
    ("coarse", 3),
    ("coarse", ["network"]),
    ("levels", 1),
    ("levels", 2.0),
    ("levels", "many"),
    ("levels", None),
    ("coarsening", 1),
    ("coarsening", "4"),
    ("coarsening", (2, 2)),
    ("correction", "resid"),
    ("correction", None),
    ("correction", len),
    ("guess", "none"),
    ("guess", len),
    ("iterations", -1),
    ("iterations", 1.0),
    ("iterations", True),
    ("iterations", "2"),
    ("iterations", None),
    ("coarse_rank", 0),
    ("coarse_rank", 1.5),
    ("coarse_rank", "half"),
    ("coarse_depth", -1),
    ("coarse_depth", 0.5),
    ("coarse_depth", False),
    ("coarse_depth", ()),
    ("coarse_depth", (1, -1)),
    ("coarse_depth", (1, True)),
    ("coarse_depth", [1, 2]),
    ("seed", -1),
    ("seed", 1.5),
    ("seed", None),
    ("coarse_budget", 0),
    ("coarse_budget", 1.01),
    ("coarse_budget", -0.2),
    ("coarse_budget", float("nan")),
    ("coarse_budget", "half"),
    ("coarse_budget", None),
    ("coarse_budget", True),
    ("tolerance", -1e-9),
    ("tolerance", float("nan")),
    ("tolerance", True),
    ("tolerance", "small"),
]


def make(fine: nn.Module, source: object, target: object) -> nn.Module:
    return nn.Identity()


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_option_is_named(name: str, value: Any) -> None:
    with pytest.raises(MethodError) as caught:
        Parareal(**{name: value})
    assert isinstance(caught.value, PararealizeError)
    assert f"{name}={value!r}" in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize("name", Parareal.CHOICES)
def test_every_choice_is_accepted_and_listed(name: str) -> None:
    for value in Parareal.CHOICES[name]:
        assert getattr(Parareal(**{name: value}), name) == value
    with pytest.raises(MethodError) as caught:
        Parareal(**{name: "other"})
    assert all(repr(value) in str(caught.value) for value in Parareal.CHOICES[name])


def test_json_round_trip() -> None:
    method = Parareal("rediscretized", "difference", 3, "coarse", 2, 0.5, 7)
    values = json.loads(json.dumps(values_of(method)))
    assert values["method"] == "parareal"
    assert read(Method, values) == method


def test_a_callable_is_named_and_given_again() -> None:
    method = Parareal(coarse=make)
    values = json.loads(json.dumps(values_of(method)))
    assert values["coarse"] == "callable:make"
    assert with_factory(read(Method, values), make) == method
    with pytest.raises(MethodError, match=r"callable:make.*load\(path, model, coarse=function\)"):
        with_factory(read(Method, values), None)


def test_a_callable_without_a_name_is_saved_too() -> None:
    class Maker:
        def __call__(self, *_: object) -> nn.Module:
            return nn.Identity()

    assert str(values_of(Parareal(coarse=Maker()))["coarse"]).startswith("callable:")


def test_unknown_options_are_named() -> None:
    with pytest.raises(MethodError, match="colour"):
        read(Method, {"method": "parareal", "colour": 3})
