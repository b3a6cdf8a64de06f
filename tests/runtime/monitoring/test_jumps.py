"""The penalty of jumps, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pararealize.errors import MethodError
from pararealize.ir.schedule import Watch
from pararealize.runtime.monitoring.jumps import Jumps, Watched, summed_jumps


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def watch(sweep: int = 0, interface: int = 1) -> Watch:
    return Watch(sweep, interface, "new", "old")


def summed(watched: list[Watched], batch: int) -> Tensor:
    """Their sum, which no watches divide."""
    return summed_jumps(watched, (), batch)


def test_it_is_the_mean_over_samples_of_relative_squares() -> None:
    new, old = numbers(3, 4, 0, 2).view(2, 2), numbers(0, 0, 0, 1).view(2, 2)
    assert float(summed([(watch(), new, old)], 2)) == (25 / 25 + 1 / 4) / 2
    assert float(summed([(watch(), new, old)], 3)) == 26 / 29  # rows are no samples: one number
    assert float(summed([(watch(), new, old), (watch(1), new, 2 * new)], 2)) == 0.625 + 1


def test_states_of_several_leaves_are_one_vector() -> None:
    new = numbers(3).view(1, 1), torch.tensor([[5]]), torch.tensor([[4j]])
    old = numbers(0).view(1, 1), torch.tensor([[9]]), torch.tensor([[0j]])
    assert float(summed([(watch(), new, old)], 1)) == 1  # whole numbers have no jump
    assert float(summed([(watch(), torch.tensor([5]), torch.tensor([6]))], 1)) == 0


def test_slices_of_a_batch_are_put_together() -> None:
    new, old = torch.rand(2, 5, 3, dtype=torch.float64)
    parts = zip(new.tensor_split(2), old.tensor_split(2), strict=True)
    watched = [(watch(), *part) for part in parts]
    assert torch.equal(summed(watched, 5), summed([(watch(), new, old)], 5))
    every = [w for w, *_ in [*watched, (watch(1), new, old)]]
    assert torch.equal(summed_jumps(watched, every, 5), summed(watched, 5) / 2)


def test_the_scale_is_a_constant_and_zero_jumps_have_zero_gradients() -> None:
    new, old = (numbers(3, 4).view(1, 2).requires_grad_() for _ in range(2))
    summed([(watch(), new, old)], 1).backward()
    assert torch.equal(new.grad, numbers(0, 0).view(1, 2))
    summed([(watch(), new, 0 * old)], 1).backward()
    assert torch.equal(new.grad, 2 * new / 25)


def test_a_state_that_is_zero_leaves_no_infinity() -> None:
    old = numbers(0, 2).view(2, 1).requires_grad_()
    total = summed([(watch(), torch.zeros_like(old), old)], 2)
    total.backward()
    assert float(total) == 2
    assert torch.equal(old.grad, old.detach())


def test_without_jumps_it_is_zero() -> None:
    assert float(summed([], 3)) == 0
    assert float(summed_jumps([], [], 3)) == 0


@pytest.mark.parametrize(
    ("like", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_it_is_as_wide_as_the_output(like: torch.dtype, wide: torch.dtype) -> None:
    jumps = Jumps()
    jumps.keep(numbers(1).sum(), {"labels": torch.ones(2).long(), "scores": torch.ones(2).to(like)})
    assert jumps.penalty().dtype == wide
    jumps.forget()
    with pytest.raises(MethodError, match="not called yet"):
        jumps.penalty()
