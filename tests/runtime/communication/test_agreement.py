"""Signatures: what makes two calls alike, in words."""

import torch

from pararealize.runtime.communication.agreement import digest, signature

X = torch.zeros(2, 3, 4, 4, dtype=torch.float64)


def of(training: bool = True, **inputs: object) -> str:
    return signature(inputs, training=training)


def test_a_call_in_words() -> None:
    words = "x [2, 3, 4, 4] float64, flag True, train mode, with gradients"
    assert of(x=X, flag=True) == words


def test_equal_calls_have_equal_signatures_whatever_their_numbers() -> None:
    assert of(x=X, y=(X, 3)) == of(x=X + 1, y=(X - 1, 3))


def test_whatever_changes_shapes_or_adjoints_changes_the_signature() -> None:
    texts = [
        of(x=X),
        of(y=X),
        of(x=X[:1]),
        of(x=X.float()),
        of(x=X.contiguous(memory_format=torch.channels_last)),
        of(x=X.clone().requires_grad_()),
        of(x=(X,)),
        of(x=[X]),
        of(x=(X, X)),
        of(x=X, y=None),
        of(x=X, y=1),
        of(x=X, y=1.0),
        of(x=X, y="1"),
        of(training=False, x=X),
    ]
    assert len(set(texts)) == len(texts)


def test_the_mode_of_gradients_counts() -> None:
    with torch.no_grad():
        assert of(x=X).endswith("train mode, without gradients")


def test_autocast_counts() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert of(x=X).endswith("with gradients, autocast torch.bfloat16")


def test_other_objects_are_named_by_their_class() -> None:
    assert of(x=object()) == "x object, train mode, with gradients"


def test_digests_fit_into_an_integer_and_tell_texts_apart() -> None:
    found = [digest(f"x [{size}] float64") for size in range(1000)]
    assert len(set(found)) == 1000
    assert all(0 <= number < 2**63 for number in found)
    assert max(found) > 2**60
    assert digest("x") == digest("x")
