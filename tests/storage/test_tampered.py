"""Saved plans with any entry changed: they load, and answer, or are refused in a sentence."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from pararealize import MGRIT, Parareal, load, pararealize
from pararealize.errors import PararealizeError
from pararealize.models import odenet
from pararealize.storage.read import seal

pytestmark = pytest.mark.filterwarnings("ignore")
OTHERS = (None, 0, -1, 3, 10**9, 10**30, 0.5, float("nan"), float("inf"), "x", "\ud800")
MORE = ([], [1], {}, {"a": 1}, {"1": 0.5}, True)

#: Changed plans that are loaded, of each network.
SAMPLES = 40


def build() -> nn.Module:
    return odenet(9, width=4, in_features=6)


@pytest.fixture(scope="module", params=["calibrated", "multigrid"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    if request.param == "multigrid":
        method = MGRIT(coarsening=2, coarse="fitted", batched="always")
        net = pararealize(build(), 3, method=method, example_inputs=(torch.randn(5, 6),))
    else:
        net = pararealize(build(), 3, method=Parareal(coarse="auto")).eval()
        net.calibrate(torch.randn(40, 6), progress=False, epochs=1, steps=2, batch=20)
    net.save(path)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value[:3]) if isinstance(value, list) else inner
    for key, each in inner:
        yield from places(each, (*path, key))


def changes(document: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Entries, and what to do with them: delete, another type or length, huge, negative, NaN."""
    for path in places(document):
        if path and path != ("digest",):
            for what in ("delete", "longer", "shorter", *OTHERS, *MORE):
                yield path, what


def changed(document: dict[str, Any], path: tuple[Any, ...], what: Any) -> dict[str, Any]:
    new = copy.deepcopy(document)
    here = new
    for key in path[:-1]:
        here = here[key]
    old, last = here[path[-1]], path[-1]
    if what == "delete":
        del here[last]
    elif what in ("longer", "shorter") and isinstance(old, list):
        here[last] = old + (old[-1:] or [0]) if what == "longer" else old[:-1]
    else:
        here[last] = what
    return new


def test_whatever_is_changed_is_noticed(folder: Path) -> None:
    document = json.loads((folder / "plan.json").read_text())
    for path, what in Random(0).sample(list(changes(document)), SAMPLES):
        new = changed(document, path, what)
        if json.dumps(new) == json.dumps(document):
            continue
        (folder / "plan.json").write_text(json.dumps(new))
        with pytest.raises(PararealizeError, match=r"has changed|holds format"):
            load(folder, build())
    (folder / "plan.json").write_text(json.dumps(document))


def test_with_a_digest_made_anew_it_loads_or_is_refused(folder: Path) -> None:
    document, x = json.loads((folder / "plan.json").read_text()), torch.randn(5, 6)
    outcomes = {"loaded": 0, "refused": 0}
    said = []
    for path, what in Random(1).sample(list(changes(document)), SAMPLES):
        (folder / "plan.json").write_text(json.dumps(seal(changed(document, path, what))))
        try:
            net = load(folder, build(), verify=False).eval()
        except PararealizeError as error:
            outcomes["refused"] += 1
            said.append(str(error))
            continue
        outcomes["loaded"] += 1
        assert net(x).shape == (5, 10)
        assert net.explain()
        if net.plan.calibration is not None:
            assert net.plan.calibration.reached
    (folder / "plan.json").write_text(json.dumps(document))
    assert min(outcomes.values()) > 2
    assert not [text for text in said if "\n" in text or len(text) >= 800]
