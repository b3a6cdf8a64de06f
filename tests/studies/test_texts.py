"""The text that `studies.texts` reads from Python itself."""

import pytest
import torch

from pararealize.errors import ShapeError
from studies.texts import VOCABULARY, load_texts


def test_help_pages_are_cut_in_windows() -> None:
    texts = load_texts(64)
    assert texts.train.shape[1] == texts.held_out.shape[1] == 65
    assert len(texts.train) + len(texts.held_out) > 5_000
    assert len(texts.held_out) == pytest.approx(0.1 * len(texts.train), rel=0.12)
    assert texts.train.dtype == torch.int64
    assert int(texts.train.max()) < len(texts.vocabulary) == len(VOCABULARY) == 97
    assert "Python" in texts.source


def test_windows_read_as_english() -> None:
    texts = load_texts(64)
    everything = "".join(map(texts.read, texts.train))
    assert everything.count(" the ") > 1_000
    assert everything.count(VOCABULARY[-1]) < 0.01 * len(everything)


def test_hardly_any_test_text_is_trained_on() -> None:
    texts = load_texts(200)
    train = {texts.read(window) for window in texts.train}
    assert len(train) == len(texts.train)
    # With the paragraphs that pages share twice it would be a third; what remains are tables.
    corpus = "\0".join(train)
    middles = [texts.read(window)[70:130] for window in texts.held_out]
    assert sum(middle in corpus for middle in middles) <= 0.06 * len(middles)


def test_a_seed_draws_the_windows_held_out() -> None:
    first, again, other = load_texts(seed=1), load_texts(seed=1), load_texts(seed=2)
    assert torch.equal(first.held_out, again.held_out)
    assert not torch.equal(first.held_out, other.held_out)


@pytest.mark.parametrize("context", [0, -3, 10**6])
def test_windows_that_do_not_fit_are_refused(context: int) -> None:
    with pytest.raises(ShapeError, match="choose a context between 1 and"):
        load_texts(context)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_shares_that_leave_a_side_empty_are_refused(share: float) -> None:
    with pytest.raises(ShapeError, match="a share between 0 and 1"):
        load_texts(64, held_out=share)
