"""Targets: their text, and what is the network's own."""

import pickle

import pytest

from pararealize.ir.target import HEAD, Kind, Target

TEXTS = {
    Target.fine(2): "fine.2",
    Target.coarse(2): "coarse.2",
    Target.coarse(2, 3): "coarse3.2",
    Target.coarse(12, 4): "coarse4.12",
    Target.guess(1): "guess.1",
    Target.inputs(2): "inputs.2",
    HEAD: "head",
}


@pytest.mark.parametrize("target", TEXTS)
def test_text(target: Target) -> None:
    assert str(target) == f"{target}" == TEXTS[target]


def test_they_are_told_apart_also_by_another_process() -> None:
    assert len(TEXTS) == len(set(TEXTS.values())) == 7
    assert pickle.loads(pickle.dumps(TEXTS)) == TEXTS
    assert all(pickle.loads(pickle.dumps(target)).kind is target.kind for target in TEXTS)


def test_the_networks_own_layers_are_those_of_slices_and_of_the_head() -> None:
    assert {t.kind for t in TEXTS if t.is_slice} == {Kind.FINE, Kind.INPUTS}
    assert {t.kind for t in TEXTS if t.is_network} == {Kind.FINE, Kind.INPUTS, Kind.HEAD}
