"""English text that Python itself carries, so that nothing is downloaded."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pydoc_data.topics import topics

import torch
from torch import Tensor

from pararealize.errors import ShapeError

#: Printable ASCII; a character outside it is read as the last one, which is not in ASCII.
VOCABULARY = "\n" + "".join(map(chr, range(32, 127))) + "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Texts:
    """Windows of text, int64 `[count, context + 1]`, to learn from and to be tested on.

    A number stands for a character of the ``vocabulary``; no window overlaps another, and
    ``source`` says where the text comes from.
    """

    train: Tensor
    held_out: Tensor
    vocabulary: str
    source: str

    def read(self, window: Tensor) -> str:
        """The text of one window, or of any row of numbers."""
        return "".join(self.vocabulary[number] for number in window.tolist())


def load_texts(context: int = 64, *, held_out: float = 0.1, seed: int = 0) -> Texts:
    """Python's help pages (about 380,000 characters), cut in windows of ``context + 1``.

    A ``seed`` draws the share ``held_out`` of the windows for testing. Pages repeat
    many paragraphs; each is read once, or a third of the test text would be seen in training.

    Raises:
        ShapeError: windows too long for the text, or a share that leaves one side empty.

    """
    numbers = _numbers(_help_pages())
    count = len(numbers) // (context + 1) if context > 0 else 0
    tested = round(held_out * count)
    if not 0 < tested < count:
        raise ShapeError(
            f"{len(numbers)} characters in windows of {context} + 1 with a share of {held_out} "
            "held out leave nothing to train on or nothing to test on: choose a context between 1 "
            f"and {len(numbers) // 2 - 1} and a share between 0 and 1."
        )
    windows = numbers[: count * (context + 1)].reshape(count, context + 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    source = f"help pages of Python {platform.python_version()}, {len(numbers):,} characters"
    return Texts(windows[order[tested:]], windows[order[:tested]], VOCABULARY, source)


def _help_pages() -> str:
    """All pages' paragraphs in their order, each where it stands first."""
    paragraphs = (part for _, page in sorted(topics.items()) for part in page.split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs))


def _numbers(text: str) -> Tensor:
    number = {character: i for i, character in enumerate(VOCABULARY)}
    return torch.tensor([number.get(character, len(VOCABULARY) - 1) for character in text])
