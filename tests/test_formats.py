"""Folders that earlier versions saved: they load, and answer as they did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pararealize import load
from pararealize.ir.plan import FORMAT, READABLE
from pararealize.models import resnet

DATA = Path(__file__).parent / "data"

#: Of format 3: fresh networks, copies with their numbers of blocks, a calibrated network, MGRIT.
NETWORKS = ("parareal", "deep", "calibrated", "mgrit")


@pytest.mark.parametrize("name", NETWORKS)
def test_format_3_loads_and_answers_as_it_did(name: str, tmp_path: Path) -> None:
    answers = load_file(DATA / "format3" / "answers.safetensors")
    net = load(DATA / "format3" / name, resnet(29, channels=1, width=4).eval())
    with torch.no_grad():
        found = net(answers["x"])
    # Other processors add in another order.
    assert torch.allclose(found, answers[name], rtol=1e-4, atol=1e-5)
    assert net.plan.format == FORMAT
    net.save(tmp_path / name)
    again = load(tmp_path / name, resnet(29, channels=1, width=4).eval())
    with torch.no_grad():
        assert torch.equal(again(answers["x"]), found)
    assert again.plan == net.plan


def test_the_formats_read_are_those_that_are_tested() -> None:
    folders = {int(p.name.removeprefix("format")) for p in DATA.glob("format*")}
    assert {*folders, FORMAT} == set(READABLE)
