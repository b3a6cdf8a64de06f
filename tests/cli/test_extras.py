"""The library and the command line in a process that has none of the optional packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BLOCKED = ("typer", "rich", "matplotlib", "mpi4py", "mlxtend", "sklearn", "PIL", "torchvision")

LIBRARY = """
import contextlib, io, json, sys, warnings
for name in %r:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError

import torch
import torch.distributed as dist
from torch import nn
from pararealize import MGRIT, Parareal, load, pararealize
from pararealize.cli.main import main
from pararealize.layers import LayerParallel
from pararealize.models import resnet

warnings.simplefilter("ignore")
folder, found = sys.argv[1], {}
torch.manual_seed(0)
model = resnet(20, channels=1, width=4).eval()
method = Parareal(coarse="thinned", correction="difference", guess="coarse")
x = torch.randn(20, 1, 8, 8)
net = pararealize(model, 3, method=method, example_inputs=(x[:2],))
found["explain"] = net.explain()
net.calibrate(x, epochs=1, batch=5, agreement=0.01)
net.save(folder + "/net")
again = load(folder + "/net", model)
found["same"] = torch.equal(net(x), again(x))
deep = LayerParallel(None, lambda: nn.Linear(4, 4), 8, 1.0, cfactor=2)
found["layers"] = list(deep(torch.ones(2, 4)).shape)
store = dist.FileStore(folder + "/meet", 1)
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
group = pararealize(model, 2, comm=dist.group.WORLD, example_inputs=(x[:2],))
found["on ranks"] = list(group(x[:2]).shape)
dist.destroy_process_group()


def run(*arguments):
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = ended.code
    return [code, err.getvalue(), out.getvalue()]


EXPLAIN = ("explain", "pararealize.models:resnet56", "-n", "3")
found["typer"] = run(*EXPLAIN)
del sys.modules["typer"]
found["no rich"] = run(*EXPLAIN)
found["picture"] = run(*EXPLAIN, "--picture", folder + "/p")
found["demo"] = run("demo")
found["ranks"] = run("check", "pararealize.models:resnet56", "--ranks", "2")
print(json.dumps(found))
"""


#: A process that imports everything anew, for half a minute.
pytestmark = pytest.mark.rest


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("extras")
    command = [sys.executable, "-c", LIBRARY % (BLOCKED,), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_library_needs_none_of_them(found: dict[str, Any]) -> None:
    assert "ResNet in 3 subnetworks" in found["explain"]
    assert found["same"]
    assert found["layers"] == [2, 4]
    assert found["on ranks"] == [2, 10]


@pytest.mark.parametrize(
    ("what", "package", "extra"),
    [
        ("typer", "typer", "cli"),
        ("picture", "matplotlib", "cli"),
        ("demo", "matplotlib", "cli"),
        ("ranks", "--ranks: mpi4py", "mpi"),
    ],
)
def test_what_is_missing_is_named_in_one_sentence(
    what: str, package: str, extra: str, found: dict[str, Any]
) -> None:
    said = f'pararealize: {package} is not installed: pip install "pararealize[{extra}]".\n'
    assert found[what] == [2, said, ""]


def test_without_rich_the_command_line_prints_the_same(found: dict[str, Any]) -> None:
    code, err, out = found["no rich"]
    assert (code, err) == (0, "")
    assert "ResNet in 3 subnetworks" in out
    assert "Predicted" in out
