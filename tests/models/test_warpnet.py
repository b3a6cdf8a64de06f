"""Warped residual networks: the expansion, its derivative, weights and statistics."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pararealize import Parareal, pararealize
from pararealize.models import ConvStep, DenseStep, resnet, warp, warpnet
from pararealize.models.resnet import PreActBottleneck


class Scaled(nn.Module):
    """A residual unit whose branch is made small: x + ε f(x)."""

    def __init__(self, unit: nn.Module, scale: float) -> None:
        super().__init__()
        self.unit, self.scale = unit, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * (self.unit(x) - x)


UNITS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: DenseStep(4, 1.0), (3, 4)),
    "bottleneck": (lambda: PreActBottleneck(8, 8), (2, 8, 4, 4)),
    "bottleneck, eval": (lambda: PreActBottleneck(8, 8).eval(), (2, 8, 4, 4)),
    "convolution": (lambda: ConvStep(3, 1.0), (2, 3, 4, 4)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(3)
    build, shape = UNITS[name]
    return build().double(), build().double(), torch.randn(shape).double()


@pytest.mark.parametrize("name", ["dense", "bottleneck"])
def test_the_error_is_of_second_order_in_the_first_branch(name: str) -> None:
    """Halving f1 divides the error by four; without the derivative it would by two."""
    first, second, x = pair(name)
    errors, plain = [], []
    for scale in (2e-3, 1e-3, 5e-4):
        small = Scaled(first, scale)
        exact = second(small(x))
        errors.append((warp(small, second, x) - exact).norm().item())
        plain.append((second(x) + small(x) - x - exact).norm().item())
    for (one, half), (other, rest) in zip(
        itertools.pairwise(errors), itertools.pairwise(plain), strict=True
    ):
        # The next order adds a few thousandths; a ReLU that changes side adds more.
        assert one / half == pytest.approx(4, rel=0.2)
        assert other / rest == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("name", ["bottleneck, eval", "convolution"])
def test_between_the_kinks_of_piecewise_linear_units_it_is_exact(name: str) -> None:
    first, second, x = pair(name)
    small = Scaled(first, 1e-7)
    # The step is a difference of numbers of size one, in float64.
    torch.testing.assert_close(warp(small, second, x), second(small(x)), rtol=1e-13, atol=1e-13)
    assert (second(x) + small(x) - x - second(small(x))).abs().max() > 1e-10


def test_it_is_exact_where_the_second_unit_is_affine() -> None:
    first, _, x = pair("dense")
    second = nn.Linear(4, 4).double()
    # One product more in float64.
    torch.testing.assert_close(warp(first, second, x), second(first(x)), rtol=1e-13, atol=1e-13)


def test_a_second_unit_that_ignores_its_input_has_no_derivative() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 2)

    assert torch.equal(warp(nn.Linear(4, 4), Constant(), torch.randn(3, 4)), torch.ones(3, 2))


@pytest.mark.parametrize("name", ["dense", "bottleneck", "bottleneck, eval"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    first, second, x = pair(name)
    weights = [*first.parameters(), *second.parameters()]
    assert torch.autograd.gradcheck(
        lambda x, *_: warp(first, second, x), (x.requires_grad_(), *weights), fast_mode=True
    )


def test_batch_normalisation_is_torchs_in_values_and_statistics() -> None:
    """What stands in for it where it is differentiated twice, against the layer itself."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5).double()
    for options in ({}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}):
        norm = nn.BatchNorm2d(3, **options).double()  # type: ignore[arg-type]
        plain = copy.deepcopy(norm)
        for _ in range(2):
            # A first unit that is the identity makes no step: the second one's own value is left.
            torch.testing.assert_close(warp(nn.Identity(), norm, x), plain(x), **CLOSE)
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(value, plain.state_dict()[name], **CLOSE)


def test_statistics_are_those_of_the_serial_unit_to_first_order() -> None:
    first, second, x = pair("bottleneck")
    small, plain = Scaled(first, 1e-3), copy.deepcopy(second)
    warp(small, second, x)
    plain(small(x))
    found, wanted = second.state_dict(), plain.state_dict()
    # The first layer sees x + f1(x) itself, later ones up to terms of 1e-6 beside 1e-3.
    for name in ("bn1.running_mean", "bn1.running_var"):
        torch.testing.assert_close(found[name], wanted[name], **CLOSE)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_answers_in_eval_mode_are_those_of_train_mode_to_first_order() -> None:
    """With the batch's own statistics in place of running ones."""
    torch.manual_seed(2)
    x = torch.randn(16, 8, 6, 6).double()
    errors = []
    for scale in (8e-3, 1e-3):
        first, second, _ = pair("bottleneck")
        small = Scaled(first, scale)
        for norm in second.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0
        trained = warp(small, second, x)
        for norm in second.modules():
            if isinstance(norm, nn.BatchNorm2d):
                count = x[:, 0].numel()
                norm.running_var.mul_((count - 1) / count)  # type: ignore[union-attr, operator]
        errors.append((warp(small, second.eval(), x) - trained).norm().item())
    # 64 for an error of second order, give or take the kinks of ReLUs, and 8 for one of first.
    assert errors[0] / errors[1] > 25


# float64, means over a hundred numbers of size one
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize(
    "layer",
    [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm1d(4)],
    ids=lambda layer: type(layer).__name__,
)
def test_other_normalisations_are_refused(layer: nn.Module) -> None:
    """Torch's gradients of their forward derivatives are wrong, without a word."""
    with pytest.raises(NotImplementedError, match="has batch normalisation or none, not"):
        warp(nn.Linear(4, 4), layer, torch.randn(3, 4, 4))


def images(batch: int = 4) -> Tensor:
    torch.manual_seed(5)
    return torch.randn(batch, 1, 8, 8)


@pytest.mark.parametrize("depth", [11, 20, 29, 38])
@pytest.mark.parametrize("training", [True, False])
def test_every_weight_has_a_finite_gradient(depth: int, training: bool) -> None:
    """One, two, three and four blocks a stage: none, one and two pairs, a last one alone."""
    net = warpnet(depth, channels=1, width=4).train(training)
    loss = functional.cross_entropy(net(images()), torch.arange(4))
    names, values = zip(*net.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, values), strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


def test_weights_have_the_names_of_the_serial_network() -> None:
    plain, warped = resnet(38, channels=1, width=4), warpnet(38, channels=1, width=4)
    assert warped.state_dict().keys() == plain.state_dict().keys()
    warped.load_state_dict(plain.state_dict())
    plain.load_state_dict(warped.state_dict())
    # Its first stage has a block that changes the shape and no pair: nothing is expanded.
    plain, warped = resnet(11, channels=1, width=4).eval(), warpnet(11, channels=1, width=4).eval()
    warped.load_state_dict(plain.state_dict())
    assert torch.equal(warped(images()), plain(images()))


def test_statistics_move_once_a_step_and_not_in_eval_mode() -> None:
    net = warpnet(29, channels=1, width=4)
    net(images())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.num_batches_tracked.item() for norm in norms} == {1}  # type: ignore[union-attr]
    before = copy.deepcopy(net.state_dict())
    net.eval()
    first, second = net(images()), net(images())
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not torch.equal(net.train()(images()), first)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_answers_need_no_graph(block: Callable[[], torch.no_grad]) -> None:
    net, x = warpnet(29, channels=1, width=4).eval(), images()
    with block():
        found = net(x)
    torch.testing.assert_close(found, net(x))


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
def test_it_is_compiled_between_its_stages() -> None:
    net, x = warpnet(29, channels=1, width=4).eval(), images()
    method = Parareal(coarse="fine", correction="difference")
    parallel = pararealize(net, 2, example_inputs=(x,), method=method)
    # One sweep with the fine propagator is exact; sums in another order, in float32.
    torch.testing.assert_close(parallel(x), net(x), rtol=1e-4, atol=1e-5)
    for model in (parallel, net):
        torch.autograd.backward(functional.cross_entropy(model(x), torch.arange(4)))
    found = dict(parallel.named_parameters())
    for name, weight in net.named_parameters():
        torch.testing.assert_close(found[name].grad, weight.grad, rtol=1e-3, atol=1e-4)
