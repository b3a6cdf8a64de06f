"""Estimates of coarse and guess networks agree with what is built later."""

import pytest
import torch
from torch import nn

from pararealize import Parareal, pararealize
from pararealize.chain.interfaces import build_chain
from pararealize.coarse.estimate import Estimate, input_names, main_input
from pararealize.cost.inputs import infer_profile
from pararealize.cut.cut import cut
from pararealize.ir.chain import Chain, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.models import odenet, resnet, vgg11
from pararealize.tracing.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

NETWORKS = {
    "resnet": lambda: resnet(47, width=4),
    "ode": lambda: odenet(12, width=16),
    "vgg": lambda: vgg11(head="small", classes=10, width=64, batch_norm=True),
}


def chain_of(model: nn.Module) -> Chain:
    traced = trace(model)
    return build_chain(model, traced, infer_profile(traced.train, model, Machine()))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "method", [Parareal(), Parareal(correction="difference", coarse_depth=2, coarse_budget=1)]
)
def test_estimates_are_what_is_built(name: str, method: Parareal) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    chain = chain_of(model)
    estimate = Estimate(chain, model, method, Machine())
    bounds = cut(chain, model, 3, method, Machine()).bounds
    pieces = pararealize(model, 3, method=method).plan.pieces
    for piece, first, last in zip(pieces, bounds, bounds[1:], strict=False):
        assert estimate.seconds(first, last) == pytest.approx(piece.seconds)
        if piece.index > 1:
            assert estimate.guess(first) == pytest.approx(piece.guess_seconds)
        if piece.coarse in {"own layers", "generic"}:
            assert estimate.coarse(first, last) == pytest.approx(piece.coarse_seconds, rel=0.2)


@pytest.mark.parametrize("name", ["resnet", "ode"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_steps_in_place_of_residual_blocks_are_estimated(name: str, depth: int) -> None:
    model = NETWORKS[name]()
    chain = chain_of(model)
    method = Parareal("stepped", "difference", guess="coarse", coarse_depth=depth)
    bounds = cut(chain, model, 3, method, Machine()).bounds
    pieces = pararealize(model, 3, method=method).plan.pieces
    estimate = Estimate(chain, model, method, Machine())
    for piece, first, last in list(zip(pieces, bounds, bounds[1:], strict=False))[1:]:
        assert piece.coarse in {f"stepped {depth}", "whole"}  # where no more blocks repeat
        # Normalisation and activations between layers are left out of the estimate.
        assert estimate.coarse(first, last) == pytest.approx(piece.coarse_seconds, rel=0.25)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_of_low_rank_are_estimated(name: str) -> None:
    model = NETWORKS[name]()
    chain = chain_of(model)
    method = Parareal("factored", "difference", guess="coarse", coarse_rank=0.4)
    bounds = cut(chain, model, 3, method, Machine()).bounds
    pieces = pararealize(model, 3, method=method).plan.pieces
    estimate = Estimate(chain, model, method, Machine())
    for piece, first, last in zip(pieces, bounds, bounds[1:], strict=False):
        assert piece.coarse == "factored 0.4"
        assert estimate.coarse(first, last) == pytest.approx(piece.coarse_seconds, rel=1e-9)
        assert estimate.coarse(first, last) < estimate.seconds(first, last)


def test_kinds_without_networks_cost_what_they_run() -> None:
    model = NETWORKS["ode"]()
    chain = chain_of(model)
    fine = Estimate(chain, model, Parareal(coarse="fine"), Machine())
    assert fine.coarse(3, 7) == pytest.approx(fine.seconds(3, 7))
    identity = Estimate(chain, model, Parareal(coarse="identity"), Machine())
    assert identity.coarse(3, 7) == 0.0


def test_guesses_cost_nothing_where_there_are_none() -> None:
    model = NETWORKS["ode"]()
    chain = chain_of(model)
    assert Estimate(chain, model, Parareal(), Machine()).guess(0) == 0.0
    assert Estimate(chain, model, Parareal(guess="coarse"), Machine()).guess(4) == 0.0
    assert Estimate(chain, model, Parareal(), Machine()).guess(4) > 0.0


def test_the_main_input_is_the_only_tensor() -> None:
    chain = chain_of(NETWORKS["ode"]())
    assert main_input(chain) == TensorSpec((2, 784))
    assert input_names(chain) == ("inputs",)
