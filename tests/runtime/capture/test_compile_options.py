"""What can be asked of the compiler of pieces, and what cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pararealize import Rehearsal, capture, capture_step
from pararealize.errors import MethodError
from pararealize.runtime.capture.compile_options import compile_options
from pararealize.runtime.capture.cuda import CudaDevice
from pararealize.runtime.capture.device import Device


@pytest.fixture
def cuda() -> Device:
    device = object.__new__(CudaDevice)  # nothing is launched
    assert device.backend == "inductor"
    return device


@pytest.mark.parametrize("asked", [False, None])
def test_nothing_is_compiled_unless_asked_for(asked: Any) -> None:
    assert compile_options(asked, Rehearsal()) is None


def test_each_device_has_a_backend_of_its_own(cuda: Device) -> None:
    here, there = compile_options(True, Rehearsal()), compile_options(True, cuda)
    assert here is not None
    assert there is not None
    assert (here.name, there.name, there.backend) == ("aot_eager", "inductor", "inductor")


def test_modes_are_options_of_inductor(cuda: Device) -> None:
    found = compile_options("max-autotune-no-cudagraphs", cuda)
    assert found is not None
    assert found.options["max_autotune"]
    options = {"mode": "max-autotune-no-cudagraphs", "options": {"max_autotune": False}}
    found = compile_options(options, cuda)
    assert found is not None
    assert not found.options["max_autotune"]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ("max-autotune", "graphs of its own"),
        ("reduce-overhead", "graphs of its own"),
        ({"options": {"triton.cudagraphs": True}}, "graphs of its own"),
        ({"backend": "cudagraphs"}, "graphs of its own"),
        ("fastest", "has only .*max-autotune"),
        ({"backend": "inducter"}, "has only .*inductor"),
        ({"backend": "aot_eager", "mode": "max-autotune"}, "modes are inductor's"),
        ({"fullgraph": False}, "no 'fullgraph'"),
        ({"dynamic": True, "name": 1}, "no 'dynamic', 'name'"),
        (7, "says not how"),
        (["inductor"], "says not how"),
    ],
)
def test_other_ways_are_refused(asked: Any, match: str, cuda: Device) -> None:
    with pytest.raises(MethodError, match=match):
        compile_options(asked, cuda)


@pytest.mark.parametrize("make", [capture, capture_step])
def test_rehearsals_record_operations_alone(make: Any) -> None:
    arguments: dict[str, Any] = {"device": Rehearsal(), "compile_pieces": {"backend": "inductor"}}
    more = (nn.functional.mse_loss,) if make is capture_step else ()
    with pytest.raises(MethodError, match="cannot be recorded"):
        make(nn.Linear(2, 2), *more, **arguments)


def test_numbers_are_drawn_by_the_layers_and_not_by_the_compiler(
    cuda: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options))
    found = compile_options(True, cuda)
    assert found is not None
    found.compiled(len, draws=True)
    found.compiled(len, draws=False)
    assert [each["options"] for each in asked] == [{"fallback_random": True}, None]
    assert all(each["fullgraph"] and each["dynamic"] is False for each in asked)
