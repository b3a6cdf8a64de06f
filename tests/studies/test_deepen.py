"""Deeper networks that start from trained ones: the same state in more and shorter steps."""

import pytest
import torch
from torch import nn

from pararealize import models
from pararealize.models.resnet import PreActBottleneck
from studies.deepen import refine


def networks(blocks: int) -> tuple[models.ResNet, models.ResNet]:
    """In float64, eval mode, with statistics of their own."""
    torch.manual_seed(0)
    pair = models.resnet(29, width=2), models.resnet(9 * blocks + 2, width=2)
    for net in pair:
        for module in net.double().eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn_like(module.running_mean)  # type: ignore[arg-type]
                module.running_var = 1 + torch.rand_like(module.running_var)  # type: ignore[arg-type]
    return pair


def increments(stage: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """What the blocks after the first add to one state, all at once."""
    return sum((block(x) - x for block in stage[1:]), torch.zeros_like(x))


@pytest.mark.parametrize("blocks", [3, 4, 5, 7])
def test_refined_steps_add_up_to_those_of_the_trained_network(blocks: int) -> None:
    trained, deep = networks(blocks)
    refine(deep, trained)
    for i in (1, 2, 3):
        x = torch.randn(2, 8 * 2 ** (i - 1), 4, 4, dtype=torch.float64)
        name = f"layer{i}"
        coarse, fine = trained.get_submodule(name), deep.get_submodule(name)
        assert isinstance(coarse, nn.Sequential)
        assert isinstance(fine, nn.Sequential)
        # Float64 sums of a few terms of size one, in another order.
        torch.testing.assert_close(
            increments(fine, x), increments(coarse, x), rtol=1e-12, atol=1e-12
        )


def test_refined_to_the_same_depth_it_is_the_same_network() -> None:
    trained, deep = networks(3)
    refine(deep, trained)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(deep(x), trained(x))


def test_the_trained_network_stays_as_it_was() -> None:
    trained, deep = networks(5)
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    refine(deep, trained)
    for parameter in deep.parameters():
        nn.init.zeros_(parameter)
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())


def test_blocks_keep_their_order_in_depth() -> None:
    trained, deep = networks(5)
    refine(deep, trained)
    kinds = [next(i for i, b in enumerate(trained.layer1) if _like(a, b)) for a in deep.layer1]
    assert kinds == [0, 1, 1, 2, 2]


def _like(a: nn.Module, b: nn.Module) -> bool:
    assert isinstance(a, PreActBottleneck)
    assert isinstance(b, PreActBottleneck)
    same = a.conv2.weight.shape == b.conv2.weight.shape
    return same and torch.equal(a.conv2.weight, b.conv2.weight)


@pytest.mark.parametrize(
    ("deep", "trained"),
    [
        (models.resnet(29, width=2), models.resnet(38, width=2)),
        (models.resnet(29, width=2), models.resnet(11, width=2)),
    ],
    ids=["shallower", "nothing to repeat"],
)
def test_fewer_blocks_are_no_refinement(deep: nn.Module, trained: nn.Module) -> None:
    with pytest.raises(ValueError, match="refined to more blocks a stage, from two or more"):
        refine(deep, trained)


def test_other_networks_have_no_stages() -> None:
    with pytest.raises(ValueError, match="a Linear has no stages"):
        refine(models.resnet(29), nn.Linear(2, 2))
