"""Torchvision's networks are compiled, equal the original, and keep their weights."""

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pararealize import Parareal, pararealize
from pararealize.cli.main import main
from pararealize.cli.specs import load_model
from studies.coverage import CoverageRow, cover, names
from studies.coverage_table import of_cover

pytestmark = [
    pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed"),
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore:torchvision's compiled operators"),
]
#: Rounding of float32, which normalisation of few numbers enlarges.
SINGLE = 1e-4
#: Whose outputs are tuples while training, and whose states have gates; `coverage` takes all.
FAMILIES = (pytest.param("googlenet", marks=pytest.mark.rest), "mobilenet_v3_small")


@pytest.mark.rest
@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_torchvision_is_compiled_exactly(name: str) -> None:
    row = cover(f"torchvision:{name}")
    assert not row.error
    assert (row.n, row.width) == (4, 1)
    assert row.interfaces > 3
    assert row.worst("outputs") < SINGLE
    assert row.worst("gradient") < SINGLE
    assert row.state
    assert of_cover(row).outcome == "equal"


@pytest.mark.rest
@pytest.mark.parametrize("name", FAMILIES)
def test_as_many_sweeps_as_subnetworks_are_the_serial_network(name: str) -> None:
    model, x = load_model(f"torchvision:{name}").double(), torch.randn(2, 3, 96, 96).double()
    net = pararealize(model, 3, method=Parareal(iterations=3), example_inputs=(x,))
    results = []
    for each in (net, copy.deepcopy(model)):
        torch.manual_seed(1)
        output = each.train()(x)
        output = output if isinstance(output, torch.Tensor) else output[0]
        output.square().sum().backward()
        grads = {k: p.grad for k, p in each.named_parameters() if p.grad is not None}
        results.append((output, grads, dict(each.named_buffers())))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-10)
    for found, wanted in zip(results[0][1:], results[1][1:], strict=True):
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10)


@pytest.mark.rest
def test_a_failure_is_a_row() -> None:
    row = cover("torchvision:vit_b_16", sizes=(32,))  # which takes images of 224 only
    assert "Wrong image height! Expected 224" in row.error
    assert of_cover(row).outcome == "refused"
    assert len(names()) > 75
    assert isinstance(row, CoverageRow)


@pytest.mark.rest
def test_a_network_of_torchvision_is_converted(tmp_path: Path) -> None:
    main_arguments = [
        "convert",
        "torchvision:squeezenet1_1",
        "-n",
        "3",
        "-o",
        str(tmp_path / "net"),
    ]
    with pytest.raises(SystemExit) as stop:
        main(main_arguments)
    assert not stop.value.code
    assert (tmp_path / "net").is_dir()
