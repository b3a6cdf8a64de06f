"""Messages: a state is its form and its numbers, and comes back from both."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pararealize.runtime.values.form import empty, flat, form_of, leaf_of

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "left right")


def numbers(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


TENSORS = {
    "contiguous": numbers(2, 3),
    "transposed": numbers(2, 3).t(),
    "strided": numbers(4, 6)[::2, 1::3],
    "with an offset": numbers(4, 6)[2:],
    "expanded": numbers(1, 3).expand(2, 3),
    "channels last": numbers(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "channels last, 3d": numbers(1, 2, 2, 3, 2).contiguous(memory_format=torch.channels_last_3d),
    "channels last, part": numbers(4, 3, 4, 5).contiguous(memory_format=torch.channels_last)[1:],
    "permuted": numbers(2, 3, 4, 5).permute(1, 0, 3, 2),
    "0-dim": torch.tensor(3.5, dtype=torch.float64),
    "empty": numbers(0, 3),
    "bfloat16": numbers(3, 2).bfloat16(),
    "bool": numbers(3, 2) > 2,
    "integers": numbers(3, 2).long().t(),
    "complex": torch.complex(numbers(2, 2), -numbers(2, 2)),
    "negative bit": torch.complex(numbers(3), numbers(3)).conj().imag,
}


def travelled(tensor: Tensor) -> Tensor:
    """What arrives of a tensor: its numbers, copied into an empty one of the same looks."""
    leaf = leaf_of(tensor)
    arrived = empty(leaf, CPU)
    flat(arrived, leaf).copy_(flat(tensor, leaf))
    return arrived


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_arrives_as_it_left(name: str) -> None:
    tensor = TENSORS[name]
    arrived = travelled(tensor)
    assert torch.equal(arrived, tensor)
    assert (arrived.dtype, arrived.shape) == (tensor.dtype, tensor.shape)
    assert leaf_of(arrived) == leaf_of(tensor)


@pytest.mark.parametrize("name", TENSORS)
def test_numbers_lie_one_after_another(name: str) -> None:
    tensor = TENSORS[name]
    line = flat(tensor, leaf_of(tensor))
    assert line.shape == (tensor.numel(),)
    assert line.is_contiguous()
    assert sorted(map(str, line.tolist())) == sorted(map(str, tensor.flatten().tolist()))


@pytest.mark.parametrize("name", ["contiguous", "with an offset", "channels last", "0-dim"])
def test_dense_tensors_are_not_copied(name: str) -> None:
    tensor = TENSORS[name]
    assert flat(tensor, leaf_of(tensor)).data_ptr() == tensor.data_ptr()


def test_the_order_of_the_leaf_holds_for_tensors_of_another_order() -> None:
    last = TENSORS["channels last"]
    assert torch.equal(flat(last.contiguous(), leaf_of(last)), flat(last, leaf_of(last)))
    assert torch.equal(flat(last, leaf_of(last.contiguous())), last.flatten())


@pytest.mark.parametrize("name", ["channels last", "transposed", "permuted", "integers"])
def test_numbers_keep_their_order_in_memory(name: str) -> None:
    tensor = TENSORS[name]
    assert travelled(tensor).stride() == tensor.stride()
    assert not leaf_of(tensor.contiguous()).strides
    assert not leaf_of(numbers(2, 3, 1, 1)).strides


@pytest.mark.parametrize("name", TENSORS)
def test_what_is_drawn_for_it_lies_where_it_would(name: str) -> None:
    """As a dropout mask is: torch draws in the order of the memory of ``empty_like``."""
    masks = [torch.empty_like(each, dtype=torch.float64) for each in _both(TENSORS[name])]
    drawn = [m.uniform_(generator=torch.Generator().manual_seed(0)) for m in masks]
    assert torch.equal(*drawn)


def _both(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor, travelled(tensor)


def test_numbers_carry_no_gradient() -> None:
    tensor = numbers(2, 3).requires_grad_() * 2
    assert not flat(tensor, leaf_of(tensor)).requires_grad


@pytest.mark.parametrize(
    ("dtype", "differentiable"),
    [
        (torch.float64, True),
        (torch.bfloat16, True),
        (torch.complex64, True),
        (torch.int64, False),
        (torch.bool, False),
    ],
)
def test_gradients_belong_to_real_and_complex_numbers(
    dtype: torch.dtype, differentiable: bool
) -> None:
    assert leaf_of(torch.ones(2, dtype=dtype)).differentiable is differentiable


def test_a_leaf_says_shape_and_dtype() -> None:
    assert str(leaf_of(TENSORS["bfloat16"])) == "[3, 2] bfloat16"
    assert str(leaf_of(TENSORS["0-dim"])) == "[] float64"


A, B, C = numbers(2), numbers(3) > 1, numbers(2, 2).bfloat16()
STATES: dict[str, tuple[Any, list[Tensor], tuple[Any, ...]]] = {
    "a tensor": (A, [A], ()),
    "a tuple": ((A, B), [A, B], ()),
    "nested": ({"a": (A, [B]), "b": (C, A)}, [A, B, C, A], ()),
    "constants": ((A, 3, {"k": "text", "t": B}, None, 2.5), [A, B], (3, "text", None, 2.5)),
    "nothing but a constant": (7, [], (7,)),
    "empty nests": ((A, (), {}), [A], ()),
    "a named tuple": (Pair(A, Pair(1, B)), [A, B], (1,)),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_its_form_and_its_tensors(name: str) -> None:
    state, wanted, constants = STATES[name]
    form, tensors = form_of(state)
    assert len(tensors) == len(wanted)
    assert all(a is b for a, b in zip(tensors, wanted, strict=True))
    assert form.tensors == tuple(leaf_of(tensor) for tensor in wanted)
    assert form.constants == constants
    assert form.plain is (not constants)


@pytest.mark.parametrize("name", STATES)
def test_filling_a_form_gives_the_state_back(name: str) -> None:
    state = STATES[name][0]
    form, tensors = form_of(state)
    others = tuple(travelled(tensor) for tensor in tensors)
    found, structure = tree_flatten(form.fill(others))
    wanted, expected = tree_flatten(state)
    assert structure == expected
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b) if isinstance(b, Tensor) else a == b


def test_forms_of_states_that_look_alike_are_equal() -> None:
    assert form_of((A, 3, {"b": C}))[0] == form_of((A + 1, 3, {"b": C * 2}))[0]
    others = [(A, 4, {"b": C}), (A, 3, {"c": C}), (A, 3, {"b": A}), [A, 3, {"b": C}]]
    assert all(form_of((A, 3, {"b": C}))[0] != form_of(other)[0] for other in others)
