"""Classifiers of sequences: features of every frame, a gated recurrent unit through time.

Moon and Cyr, "Parallel Training of GRU Networks with a Multi-Grid Solver for Long Sequences"
(arXiv:2203.04738), who put a ResNet before the recurrent unit to classify videos.
"""

from typing import TypedDict, Unpack

from torch import Tensor, nn

from pararealize.layers import GRUStep, ImplicitGRUStep


class Options(TypedDict, total=False):
    """Keyword arguments of a GRU classifier, as :func:`gru` describes them."""

    inputs: int
    width: int
    classes: int
    dt: float
    features: nn.Module | None


class SequenceClassifier(nn.Module):
    """Recurrent classifier of arXiv:2203.04738, `h_t = step(h_{t-1}, features(x_t))`, `h_0 = 0`.

    The same `step` and `features` serve all `length` frames, a number that is fixed so that a
    trace can unroll the loop; `head` is linear in the last hidden state, of `width` numbers.
    """

    def __init__(
        self, step: nn.Module, features: nn.Module, *, length: int, width: int, classes: int
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"a sequence has at least one frame, not {length}")
        self.length, self.width = length, width
        self.features = features
        self.step = step
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, length, ...]`, whose frames `[batch, ...]` features take, to logits.

        Logits are `[batch, classes]`; a ValueError says that there are not `length` frames.
        """
        if type(x.shape[1]) is int and x.shape[1] != self.length:  # a trace has no sizes
            raise ValueError(f"expected [batch, {self.length}, ...], not {list(x.shape)}")
        hidden = x.new_zeros(x.shape[0], self.width)
        for time in range(self.length):
            hidden = self.step(hidden, self.features(x[:, time]))
        logits: Tensor = self.head(hidden)
        return logits


def gru(length: int, **options: Unpack[Options]) -> SequenceClassifier:
    """Classic GRU (arXiv:1406.1078) over `length` frames, with forward Euler steps of size `dt`.

    `features`, none by default, map a frame to `inputs` numbers (6 by default); the hidden state
    has `width` numbers (64), and there are `classes` logits (7).
    """
    return _classifier(GRUStep, length, **options)


def implicit_gru(length: int, **options: Unpack[Options]) -> SequenceClassifier:
    """Implicit GRU (arXiv:2203.04738), with the options of :func:`gru`."""
    return _classifier(ImplicitGRUStep, length, **options)


def _classifier(
    kind: type[GRUStep] | type[ImplicitGRUStep],
    length: int,
    *,
    inputs: int = 6,
    width: int = 64,
    classes: int = 7,
    dt: float = 1.0,
    features: nn.Module | None = None,
) -> SequenceClassifier:
    step = kind(inputs, width, dt)
    frame = nn.Identity() if features is None else features
    return SequenceClassifier(step, frame, length=length, width=width, classes=classes)
