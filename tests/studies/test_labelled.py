"""Batches of labelled examples."""

import pytest
import torch

from pararealize.cli.digits import Digits
from studies.labelled import Examples


def counted(count: int) -> Examples:
    numbers = torch.arange(count)
    images = numbers[:, None, None, None].expand(-1, 1, 4, 4).float()
    return Examples(images, numbers, images[:2], numbers[:2])


def test_every_epoch_has_every_example_with_its_label() -> None:
    batches = list(counted(10).batches(4, 2, seed=0))
    assert [len(labels) for _, labels in batches] == [4, 4, 2] * 2
    for inputs, labels in batches:
        assert torch.equal(inputs[:, 0, 0, 0], labels.float())
    epochs = [torch.cat([labels for _, labels in batches[i : i + 3]]) for i in (0, 3)]
    assert all(epoch.sort().values.tolist() == list(range(10)) for epoch in epochs)
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_seed_decides_the_batches(shift: int) -> None:
    examples = Examples(torch.randn(8, 1, 4, 4), torch.arange(8), torch.zeros(0), torch.zeros(0))
    first, again, other = (
        torch.cat([inputs for inputs, _ in examples.batches(3, 1, seed, shift)])
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shifted_images_keep_their_labels() -> None:
    ((inputs, labels),) = counted(6).batches(6, 1, seed=0, shift=2)
    assert torch.equal(inputs, labels.float()[:, None, None, None].expand(-1, 1, 4, 4))


def test_digits_are_examples() -> None:
    parts = [torch.zeros(i) for i in range(4)]
    examples = Examples.of_digits(Digits(*parts, source="nowhere"))
    assert examples == Examples(*parts)
