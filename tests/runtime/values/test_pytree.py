"""Nests are taken apart and put together again, dataclasses among them."""

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from pararealize.runtime.values.combine import combine
from pararealize.runtime.values.form import form_of
from pararealize.runtime.values.pytree import (
    flatten,
    leaves_of,
    map_tensors,
    tensors_of,
    unflatten,
    with_tensors,
)

Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass(frozen=True)
class Answer:
    logits: Tensor
    others: Any = None
    size: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.logits.numel())


def nests() -> list[Any]:
    a, b, c = (torch.full((2,), float(i)) for i in range(3))
    return [
        a,
        (a, [b, {"c": c}]),
        OrderedDict(x=a, y=Pair(b, 7)),
        Answer(a),
        {"out": Answer(a, [b, Answer(c, "text")]), "n": 3},
        (None, Answer(a, (b, None))),
    ]


@pytest.mark.parametrize("i", range(6))
def test_put_together_again_a_nest_is_the_same(i: int) -> None:
    nest = nests()[i]
    leaves, structure = flatten(nest)
    again = unflatten(leaves, structure)
    assert type(again) is type(nest)
    assert repr(again) == repr(nest)
    assert flatten(again)[1] == structure
    assert repr(form_of(nest)[0].fill(form_of(nest)[1])) == repr(nest)


def test_tensors_in_dataclasses_are_leaves() -> None:
    nest = nests()[4]
    tensors = [leaf for leaf in leaves_of(nest) if isinstance(leaf, Tensor)]
    assert [t[0].item() for t in tensors] == [0.0, 1.0, 2.0]
    assert map_tensors(lambda t: t + 1, nest)["out"].others[1].logits[0].item() == 3.0
    total = combine("++-", nest, nest, map_tensors(torch.zeros_like, nest))
    assert total["out"].others[0][0].item() == 2.0
    assert total["out"].size == 2


def test_other_structures_differ() -> None:
    a = torch.zeros(2)
    structures = [flatten(nest)[1] for nest in (a, (a,), Answer(a), {"logits": a}, Answer(a, (a,)))]
    assert all(x != y for i, x in enumerate(structures) for y in structures[:i])


def test_tensors_are_found_and_replaced_in_their_order() -> None:
    value = {"a": (torch.tensor(1), 2), "b": [torch.tensor(3), None]}
    assert [int(tensor) for tensor in tensors_of(value)] == [1, 3]
    found = with_tensors(value, [torch.tensor(5), torch.tensor(7)])
    assert [int(tensor) for tensor in tensors_of(found)] == [5, 7]
    assert (found["a"][1], found["b"][1]) == (2, None)
    assert [int(tensor) for tensor in tensors_of(value)] == [1, 3]
