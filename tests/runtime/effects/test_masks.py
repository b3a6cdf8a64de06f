"""Masks: drawn once a step, the same at every further evaluation."""

import torch
from torch import Tensor

from pararealize.runtime.effects.masks import Masks

STATE = (torch.zeros(2, requires_grad=True),)


def draw(masks: Masks) -> Tensor:
    with masks.drawn(STATE):
        return torch.rand(4)


def test_a_step_draws_once() -> None:
    masks = Masks(own_stream=False)
    torch.manual_seed(0)
    first, again, third = draw(masks), draw(masks), draw(masks)
    assert torch.equal(first, again)
    assert torch.equal(first, third)
    masks.begin_step()
    assert not torch.equal(first, draw(masks))


def test_the_first_draw_moves_the_main_stream_once() -> None:
    masks = Masks(own_stream=False)
    torch.manual_seed(0)
    expected = [torch.rand(4) for _ in range(2)]
    torch.manual_seed(0)
    first, _, _ = draw(masks), draw(masks), draw(masks)
    assert torch.equal(first, expected[0])
    assert torch.equal(torch.rand(4), expected[1])


def test_an_own_stream_leaves_the_main_one() -> None:
    masks = Masks(own_stream=True)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(masks)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, draw(masks))


def test_what_is_drawn_between_evaluations_is_kept_apart() -> None:
    masks = Masks(own_stream=False)
    torch.manual_seed(0)
    first = draw(masks)
    torch.rand(3)
    here = torch.get_rng_state()
    assert torch.equal(first, draw(masks))
    assert torch.equal(here, torch.get_rng_state())


def test_the_stream_is_restored_after_an_error() -> None:
    masks = Masks(own_stream=True)
    before = torch.get_rng_state()
    try:
        with masks.drawn(STATE):
            torch.rand(3)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(before, torch.get_rng_state())
