"""Whatever users ask autograd for, and networks to ask: in one process, and on ranks beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEPTH = 6


class Block(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.fc(x))


def blocks() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(DEPTH))).double()


def affine() -> nn.Sequential:
    """A network whose first derivative depends on no state: nothing leads back to its messages."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(5, 5) for _ in range(DEPTH))).double()


def batch(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, dtype=torch.float64, generator=generator).requires_grad_()


Found = dict[str, Tensor]


def gradients(net: nn.Module) -> Found:
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def saliency(net: nn.Module) -> Found:
    x = batch()
    (g,) = torch.autograd.grad(net(x).square().sum(), x)
    assert not gradients(net)
    return {"x": g}


def gradients_of_own_weights(net: nn.Module) -> Found:
    names, own = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(net(batch()).square().sum(), own), strict=True))


def first_weight_of_each_rank(net: nn.Module) -> Found:
    name, own = next(iter(net.named_parameters()))
    net(batch()).square().sum().backward(inputs=[own])
    assert list(gradients(net)) == [name]
    return gradients(net)


def backward_to_the_input(net: nn.Module) -> Found:
    x = batch()
    net(x).square().sum().backward(inputs=[x])
    assert not gradients(net)
    net(x).sum().backward(inputs=[x])
    return {"x": x.grad}


def gradient_penalty(net: nn.Module) -> Found:
    x = batch()
    (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    ((g.norm(dim=1) - 1) ** 2).mean().backward()
    return {**gradients(net), "x": x.grad}


def critic(net: nn.Module) -> Found:
    """WGAN-GP: two calls and a penalty on a third one, in one loss."""
    real, fake, between = batch(1), batch(2), batch(3)
    (g,) = torch.autograd.grad(net(between).sum(), between, create_graph=True)
    penalty = ((g.norm(dim=1) - 1) ** 2).mean()
    (net(fake).mean() - net(real).mean() + 10 * penalty).backward()
    return {**gradients(net), "real": real.grad, "between": between.grad}


def weighted_output(net: nn.Module) -> Found:
    """The loss's own weights and the input have derivatives of the second order as well."""
    x, weight = batch(), batch(7)
    (g,) = torch.autograd.grad((net(x) * weight * x).square().sum(), x, create_graph=True)
    g.square().sum().backward()
    return {**gradients(net), "x": x.grad, "weight": weight.grad}


def penalty_on_weights(net: nn.Module) -> Found:
    """A sum over this rank's weights: its derivative is that of the sum over all ranks."""
    own = [weight for name, weight in net.named_parameters() if not name.startswith("guess.")]
    found = torch.autograd.grad(net(batch()).square().sum(), own, create_graph=True)
    torch.stack([g.square().sum() for g in found]).sum().backward()
    return gradients(net)


def hessian_vector_product(net: nn.Module) -> Found:
    x = batch()
    (g,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    (product,) = torch.autograd.grad((g * batch(5).detach()).sum(), x)
    return {"product": product}


def plain_step_after_all(net: nn.Module) -> Found:
    saliency(net)
    hessian_vector_product(net)
    net(batch()).square().sum().backward()
    return gradients(net)


ASKED = [
    saliency,
    gradients_of_own_weights,
    first_weight_of_each_rank,
    backward_to_the_input,
    gradient_penalty,
    critic,
    weighted_output,
    penalty_on_weights,
    hessian_vector_product,
    plain_step_after_all,
]


def assert_asked_alike(found: Found, wanted: Found, tolerance: float) -> None:
    """Equal, but for weights that only other ranks hold, and zeros where there was nothing."""
    assert found
    for name, value in found.items():
        expected = wanted.get(name)
        if expected is None:
            assert value is None or not value.any(), name
            continue
        scale = 1 + expected.norm()
        assert torch.linalg.vector_norm(value - expected) <= tolerance * scale, name
