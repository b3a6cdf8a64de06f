"""Whatever autograd is asked for on ranks: threads beside one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asked_gradients import (
    ASKED,
    Found,
    affine,
    assert_asked_alike,
    backward_to_the_input,
    batch,
    blocks,
    first_weight_of_each_rank,
    gradient_penalty,
    penalty_on_weights,
    plain_step_after_all,
    saliency,
)
from torch import Tensor, nn

from local_ranks import all_of, on_ranks
from local_transport import LocalTransport
from pararealize import MGRIT, Parareal, pararealize
from pararealize.errors import MethodError, PeerError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: The same operations in float64; adjoints and shares may be added in another order.
ROUNDING = 1e-11

EXACT = Parareal(coarse="fine", correction="difference")
PARAREAL = {"exact": EXACT, "sweeps": Parareal("network", "residual", 2, "coarse")}


def on_threads(model: nn.Module, ranks: int, work: Callable[[Any], Any], method: Any) -> Any:
    models = [copy.deepcopy(model) for _ in range(ranks)]

    def run(transport: LocalTransport) -> Any:
        own = models[transport.rank]
        net = pararealize(own, 3, method=method, example_inputs=(batch(),), comm=transport)
        return work(net)

    return all_of(ranks, run)


def compare(model: nn.Module, work: Callable[[Any], Found], method: Any, ranks: int) -> None:
    alone = pararealize(copy.deepcopy(model), 3, method=method, example_inputs=(batch(),))
    wanted = work(alone)
    for found in on_threads(model, ranks, work, method):
        if work is not first_weight_of_each_rank or found.keys() <= wanted.keys():
            assert_asked_alike(found, wanted, ROUNDING)  # the first weight may be another one


@pytest.mark.parametrize("work", ASKED, ids=lambda work: work.__name__)
@pytest.mark.parametrize("method", PARAREAL)
def test_gradients_are_those_of_one_process(work: Callable[[Any], Found], method: str) -> None:
    compare(blocks(), work, PARAREAL[method], 2 if method == "exact" else 3)


@pytest.mark.parametrize("work", [saliency, gradient_penalty, penalty_on_weights])
def test_an_affine_network_is_differentiated_twice(work: Callable[[Any], Found]) -> None:
    """No cotangent leads from its first backward pass to its states: messages must run anyway."""
    compare(affine(), work, EXACT, 3)


@pytest.mark.parametrize("work", [saliency, first_weight_of_each_rank, backward_to_the_input])
def test_multigrid_gives_what_is_asked_for(work: Callable[[Any], Found]) -> None:
    compare(blocks(), work, MGRIT(2, 2, "sampled"), 2)


def test_multigrid_is_not_differentiated_twice() -> None:
    model = blocks()
    models = [copy.deepcopy(model) for _ in range(2)]
    method = MGRIT(2, 2, "sampled")

    def work(transport: LocalTransport) -> Any:
        own = models[transport.rank]
        net = pararealize(own, 3, method=method, example_inputs=(batch(),), comm=transport)
        return gradient_penalty(net)

    for error in on_ranks(2, work):
        assert isinstance(error, MethodError)
        assert "create_graph" in str(error)


# failures


class Once(torch.autograd.Function):
    """The identity, whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Never.apply(gradient)


class Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> Tensor:
        raise ValueError("no way back again")


@pytest.mark.parametrize("place", [0, 1])
def test_a_backward_pass_of_a_backward_pass_that_stops_is_told_and_got_over(place: int) -> None:
    """It stops before it has come to the call's own nodes."""
    model = blocks()
    models = [copy.deepcopy(model) for _ in range(2)]
    wanted = plain_step_after_all(pararealize(model, 3, method=EXACT, example_inputs=(batch(),)))

    def work(transport: LocalTransport) -> tuple[BaseException | None, Found]:
        rank, error = transport.rank, None
        net = pararealize(models[rank], 3, method=EXACT, example_inputs=(batch(),), comm=transport)
        if rank == place:
            layer = net.get_submodule(next(iter(net.state_dict())).rpartition(".")[0])
            hook = layer.register_forward_hook(lambda _layer, _inputs, y: Once.apply(y))
        try:
            gradient_penalty(net)
        except (ValueError, PeerError) as found:
            error = found
        if rank == place:
            hook.remove()
        net.zero_grad()
        return error, plain_step_after_all(net)

    found = all_of(2, work)
    own, other = (found[rank][0] for rank in (place, 1 - place))
    assert isinstance(own, ValueError)
    assert f"rank {place} of 2 stopped in the backward pass" in str(other)
    for _, gradients in found:
        assert_asked_alike(gradients, wanted, ROUNDING)
