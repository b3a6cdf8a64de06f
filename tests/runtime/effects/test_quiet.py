"""Quiet evaluations: buffers are written on copies that are dropped."""

import pytest
import torch
from torch import nn

from pararealize.runtime.effects.statistics import frozen_statistics


@pytest.fixture
def norm() -> nn.BatchNorm1d:
    return nn.BatchNorm1d(3)


def test_statistics_stay(norm: nn.BatchNorm1d) -> None:
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    kept = dict(norm.named_buffers())
    with frozen_statistics([norm]):
        norm(torch.randn(5, 3))
        assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    assert all(kept[name] is buffer for name, buffer in norm.named_buffers())


def test_the_batch_still_normalises(norm: nn.BatchNorm1d) -> None:
    x = torch.randn(5, 3)
    with frozen_statistics([norm]):
        y = norm(x)
    assert torch.equal(y, norm(x))


def test_buffers_come_back_after_an_error(norm: nn.BatchNorm1d) -> None:
    def fail() -> None:
        with frozen_statistics([norm]):
            norm(torch.randn(5, 3))
            norm(torch.randn(5, 4))

    with pytest.raises((RuntimeError, ValueError)):
        fail()
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_absent_buffers_are_left_alone() -> None:
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    with frozen_statistics([norm]):
        norm(torch.randn(5, 3))
    assert norm.running_mean is None


def test_a_backward_pass_finds_the_buffers_it_saved() -> None:
    norm = nn.BatchNorm1d(3).eval()
    x = torch.randn(5, 3, requires_grad=True)
    y = norm(x)
    norm.train()
    with frozen_statistics([norm]):
        norm(x)
    y.sum().backward()
    assert x.grad is not None


def test_norms_in_eval_mode_are_not_copied(norm: nn.BatchNorm1d) -> None:
    """They move nothing, unless a module of the user's own puts them into another mode."""

    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.norm.train()(x)
            self.norm.eval()
            return y

    norm.eval()
    mean = norm.running_mean
    with frozen_statistics([norm]):
        assert norm.running_mean is mean
        norm(torch.randn(5, 3))
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]
    module = Restless()
    with frozen_statistics([module, norm]):
        assert norm.running_mean is not mean
        module(torch.randn(5, 3))
    assert norm.running_mean is mean
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_a_module_listed_twice() -> None:
    norm = nn.BatchNorm1d(3)
    kept = dict(norm.named_buffers())
    with frozen_statistics([norm, norm]):
        norm(torch.randn(5, 3))
    assert all(kept[name] is buffer for name, buffer in norm.named_buffers())
