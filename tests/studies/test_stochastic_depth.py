"""Residual branches that are skipped at random while a network is trained."""

import copy

import pytest
import torch
from torch import nn

from pararealize import models
from studies.stochastic_depth import branches, stochastic


def network(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "resnet":
        return models.resnet(29, channels=1, width=4), torch.randn(6, 1, 8, 8)
    return models.causal_lm(9, depth=3, width=8, context=5), torch.randint(9, (6, 5))


@pytest.mark.parametrize(("kind", "each"), [("resnet", [0, 1, 1] * 3), ("words", [2, 2, 2])])
def test_branches_are_those_of_blocks_that_can_be_left_out(kind: str, each: list[int]) -> None:
    assert [len(found) for found in branches(network(kind)[0])] == each


@pytest.mark.parametrize("kind", ["resnet", "words"])
def test_samples_lose_branches_in_training_alone(kind: str) -> None:
    model, x = network(kind)
    before = copy.deepcopy(model).eval()(x)
    with stochastic(model, 0.5):
        assert torch.equal(model.eval()(x), before)
        found = [copy.deepcopy(model).train()(x) for _ in range(2)]
        assert not torch.equal(*found)
    assert torch.equal(model(x), before)
    with stochastic(model, 0.0):
        assert not any(m._forward_hooks for m in model.modules())


def test_later_blocks_are_skipped_more_often_and_the_mean_stays() -> None:
    model = models.causal_lm(9, depth=4, width=8, context=5).train()
    ones = torch.ones(4000, 1, 8)
    torch.manual_seed(1)
    with stochastic(model, 0.8):
        hooks = [next(iter(b.mlp._forward_hooks.values())) for b in model.blocks]
        kept = [hook(b.mlp, None, ones) for hook, b in zip(hooks, model.blocks, strict=True)]
    for i, output in enumerate(kept, start=1):
        skipped = float((output == 0).double().mean())
        assert skipped == pytest.approx(0.2 * i, abs=0.03)  # 4 deviations of 4,000 draws
        assert float(output.mean()) == pytest.approx(1, abs=0.2)
        assert bool((output.amax((1, 2)) == output.amin((1, 2))).all())  # samples as a whole


def test_hooks_go_also_after_an_error() -> None:
    model, x = network("resnet")
    with pytest.raises(RuntimeError), stochastic(model, 0.5):
        model(x[0, 0])
    assert not any(m._forward_hooks for m in model.modules())
