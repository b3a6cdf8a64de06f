"""Networks trained once for all studies; here tiny ones, for a step or two."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pararealize import models
from pararealize.cli.training import Recipe
from pararealize.errors import ModelSpecError, StorageError
from studies.labelled import Examples
from studies.odenets import AdamRecipe
from studies.texts import VOCABULARY, load_texts
from studies.trained import STUDIES, Study, run, trained


def few_digits() -> Examples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    labels = torch.arange(8) % 2
    return Examples(images, labels, images[:4], labels[:4])


def few_windows() -> Examples:
    texts = load_texts(7)
    return Examples.of_texts(replace(texts, train=texts.train[:8], held_out=texts.held_out[:4]))


TINY = {
    "images": Study(
        lambda: models.resnet(11, channels=1, width=2, classes=2),
        few_digits,
        Recipe(epochs=2, batch=4),
    ),
    "words": Study(
        lambda: models.causal_lm(len(VOCABULARY), depth=1, width=8, context=7),
        few_windows,
        AdamRecipe(epochs=1, batch=4),
    ),
}


@pytest.fixture(params=TINY)
def study(request: pytest.FixtureRequest) -> Study:
    return TINY[request.param]


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_cached_network_is_the_one_trained(study: Study, tmp_path: Path) -> None:
    first = run(study, "net", tmp_path)
    again = run(replace(study, make=study.make), "net", tmp_path)
    assert same(first.model, again.model)
    assert not again.model.training
    assert (first.seconds, first.loss, first.accuracy) == (
        again.seconds,
        again.loss,
        again.accuracy,
    )
    inputs = first.data.test_inputs
    assert torch.equal(first.model(inputs), again.model(inputs))


def test_what_is_cached_is_not_trained_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(study, "net", tmp_path)
    monkeypatch.setattr("studies.trained._fit", None)
    run(study, "net", tmp_path)
    with pytest.raises(TypeError):
        run(study, "other", tmp_path)


def test_a_seed_decides_the_weights_and_nothing_else(study: Study) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = run(study, "net", None)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert same(one.model, run(study, "net", None).model)
    other = run(replace(study, recipe=replace(study.recipe, seed=1)), "net", None)
    assert not same(one.model, other.model)
    assert torch.equal(one.data.test_inputs, other.data.test_inputs)


def test_training_moves_the_weights_and_is_scored(study: Study) -> None:
    torch.manual_seed(study.recipe.seed)
    start = study.make()
    found = run(study, "net", None)
    moved = zip(start.parameters(), found.model.parameters(), strict=True)
    assert all(not torch.equal(before, after) for before, after in moved)
    scores = found.model(found.data.test_inputs)
    right = (scores.argmax(-1) == found.data.test_labels).double().mean().item()
    assert found.accuracy == pytest.approx(right, abs=1e-6)
    chosen = scores.log_softmax(-1).gather(-1, found.data.test_labels[..., None])
    # Float32 means of at most 28 numbers.
    assert found.loss == pytest.approx(-chosen.mean().item(), rel=1e-5)
    assert found.seconds > 0


def test_a_deeper_network_starts_from_the_trained_one_it_refines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = replace(TINY["images"], make=lambda: models.resnet(20, channels=1, width=2))
    deep = replace(shallow, make=lambda: models.resnet(38, channels=1, width=2), refines="images")
    deep = replace(deep, recipe=Recipe(epochs=1, batch=4, rate=0.0))
    monkeypatch.setitem(STUDIES, "images", shallow)
    start, found = trained("images", 0, tmp_path), run(deep, "deep", tmp_path)
    assert torch.equal(found.model.fc.weight, start.model.fc.weight)  # type: ignore[union-attr]
    assert found.seconds > start.seconds  # of both trainings
    assert "refines images: Recipe(epochs=2" in deep.said
    monkeypatch.setitem(STUDIES, "images", replace(shallow, drop=0.5))
    with pytest.raises(StorageError, match="refines images"):  # another start, another network
        run(deep, "deep", tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    run(TINY["images"], "net", tmp_path)
    wider = replace(TINY["images"], make=lambda: models.resnet(11, channels=1, width=3, classes=2))
    with pytest.raises(StorageError, match="of another network: empty the cache folder"):
        run(wider, "net", tmp_path)


def test_words_are_predicted_from_those_before() -> None:
    data = few_windows()
    assert torch.equal(data.train_inputs[:, 1:], data.train_labels[:, :-1])
    assert data.test_labels.shape == (4, 7)


def test_every_study_is_of_a_deep_network() -> None:
    for name in ("resnet56", "resnet164", "resnet326", "resnet1001", "vgg16", "vit", "lm"):
        model = STUDIES[name].make()
        blocks = [m for m in model.modules() if isinstance(m, models.TransformerBlock)]
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(blocks) >= 12 or len(layers) >= 16


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(ModelSpecError, match=r"'resnet57': choose one of resnet56, "):
        trained("resnet57")
