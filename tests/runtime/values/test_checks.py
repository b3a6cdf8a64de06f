"""Guards: a failure says which subnetwork, which line and what it was called with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import compiled
from pararealize import Parareal
from pararealize.errors import NonFiniteError
from pararealize.network import ParallelNetwork
from pararealize.runtime.values.checks import check_finite, line_of, shapes

X = torch.ones(3, 4, dtype=torch.float64)


def network() -> ParallelNetwork:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)]
    return compiled(nn.Sequential(*layers).double(), 2, Parareal(), X, ("1",))


def spoil(net: ParallelNetwork, layer: str) -> None:
    def make_nan(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return torch.where(torch.arange(4) == 1, torch.nan, output)

    net.get_submodule(layer).register_forward_hook(make_nan)


@pytest.mark.parametrize(("layer", "piece"), [("0.1", 1), ("3.1", 2)])
def test_anomaly_mode_names_the_subnetwork_that_made_a_nan(layer: str, piece: int) -> None:
    net = network()
    spoil(net, layer)
    words = rf"subnetwork {piece} .*made \d+ of 12 numbers NaN.*\[3, 4\] torch\.float64.*was finite"
    with (
        torch.autograd.set_detect_anomaly(True),
        pytest.raises(NonFiniteError, match=words),
    ):
        net(X)


def test_without_anomaly_mode_nothing_is_looked_at() -> None:
    net = network()
    spoil(net, "3.1")
    assert net(X).isnan().any()


def test_anomaly_mode_lets_finite_networks_pass() -> None:
    net = network()
    with torch.autograd.set_detect_anomaly(True):
        found = net(X)
    assert torch.equal(found, net(X))


def test_an_error_in_a_layer_names_subnetwork_line_and_shapes() -> None:
    net = network()

    def fails(*_: Any) -> None:
        raise KeyError("no way on")

    net.get_submodule("2.0").register_forward_hook(fails)
    with pytest.raises(KeyError) as found:
        net(X)
    (note,) = found.value.__notes__
    assert "subnetwork 2" in note
    assert '"2", "0"' in note.replace("'", '"') or "2.0" in note
    assert note.endswith("called with [3, 4] torch.float64")
    assert "2" in line_of(found.value.__traceback__)


def test_only_generated_code_has_a_line() -> None:
    assert line_of(None) == ""
    with pytest.raises(KeyError) as found:
        raise KeyError
    assert line_of(found.tb) == ""


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_counted(bad: float) -> None:
    result = (X, {"a": torch.tensor([1.0, bad, bad])})
    with pytest.raises(NonFiniteError, match=r"this made 2 of 3 numbers.*which was finite"):
        check_finite(result, "this", (X,))


def test_what_was_not_finite_before_is_said_to_be() -> None:
    bad = torch.full((2,), torch.nan)
    with pytest.raises(NonFiniteError, match="which was already not finite"):
        check_finite(bad, "this", (X, bad))


def test_indices_masks_and_constants_are_finite() -> None:
    state = (X, torch.tensor([1, 2]), torch.tensor([True]), None, float("nan"))
    check_finite(state, "this", state)
    with pytest.raises(NonFiniteError):
        check_finite((*state, X / 0), "this", state)


def test_shapes_of_what_a_layer_was_called_with() -> None:
    assert shapes((X, 3, {"a": torch.tensor(1)})) == "[3, 4] torch.float64, [] torch.int64"
    assert shapes((3, None)) == "no tensor"
