"""What a layer gives, on memory of the program's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pararealize.verification.exchange import own_copy

LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "reshaped": lambda x: x.reshape(-1),
    "transposed": lambda x: x.t(),
    "part": lambda x: x[1:],
}


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x[1:], lambda x: x.view(3, 4)])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
def test_views_of_arguments_are_views_of_the_programs(
    make: Callable[[Tensor], Tensor], layer: Callable[[Tensor], Tensor]
) -> None:
    """Also where the argument is itself a view."""
    theirs, mine = (make(torch.arange(12.0).reshape(4, 3)) for _ in range(2))
    given = layer(theirs)
    found = own_copy(given, [(theirs, mine)])
    mine.add_(1)
    assert torch.equal(found, given + 1)
    assert found.shape == given.shape


def test_what_is_new_is_copied() -> None:
    theirs, mine = torch.ones(3)[1:], torch.ones(3)[1:]
    given = theirs * 2
    found = own_copy(given, [(theirs, mine)])
    mine.add_(1)
    assert found.tolist() == [2.0, 2.0]
    assert found.data_ptr() != given.data_ptr()
