"""Imports go one way: a part of the package imports what stands before it in one list."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pararealize
from pararealize import models

ROOT = Path(pararealize.__file__).parent
MODELS = Path(models.__file__).parent

#: A part may import those before it, and itself.
ORDER = (
    "errors",
    # data, and what a running schedule needs
    *("ir", "runtime.values", "runtime.effects", "runtime.monitoring", "runtime.communication"),
    *("propagators", "runtime.multigrid", "runtime.runners", "runtime.capture"),
    # passes of the compiler
    *("tracing", "chain", "schedule", "cost", "coarse", "cut"),
    # what comes out
    *("explain", "storage", "emit", "decide", "verification", "calibration"),
    *("network", "compiler", "recompiling", "loading", "forecast"),
    "layers",
    *("models", "", "cli", "__main__"),
)

#: What a part imports all the same when it is called: the names of kinds that it takes as options.
#: And what shows data in a notebook: data are shown where they are, by what knows how to.
#: And a network that has changed asks the compiler for what it is now.
LAZY = {
    "emit.emitted": {"recompiling.recompiled"},
    "ir.methods": {"coarse.registry"},
    "ir.plan": {"explain.notebook.plan_html"},
    "ir.schedule": {"explain.notebook.schedule_html"},
    "ir.calibration": {"explain.notebook.calibration_html"},
    "runtime.monitoring.report": {
        "explain.notebook.report_html",
        "explain.curves.plot_report",
    },
}

#: Schedules are decided without tensors.
SCHEDULE = {"errors", "ir", "schedule"}

#: What only the command line may import.
HEAVY = {"typer", "rich", "matplotlib"}

#: What draws when it is asked to, ``net.report.plot()``, imports matplotlib then.
DRAWS = {"explain.curves": {"matplotlib"}}
PROGRAMS = ("cli", "__main__")


def part_of(module: str) -> str:
    """The part of the package that a module, as ``runtime.values.form``, belongs to."""
    first, *rest = module.split(".")
    return ".".join([first, *rest[:1]]) if first == "runtime" else first


def part(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def module_name(file: Path, root: Path = ROOT) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def absolute(node: ast.ImportFrom, module: str, *, package: bool) -> str:
    """The dotted name an import statement of the module ``pararealize.<module>`` means."""
    if not node.level:
        return node.module or ""
    parents = ["pararealize", *filter(None, module.split("."))]
    base = parents[: len(parents) - node.level + package]
    return ".".join([*base, *filter(None, [node.module])])


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def statements(file: Path) -> list[ast.Import | ast.ImportFrom]:
    """Import statements wherever in a file."""
    return [n for n in ast.walk(parsed(file)) if isinstance(n, ast.Import | ast.ImportFrom)]


def imports(file: Path, module: str) -> Iterator[str]:
    """Everything a file imports, wherever in it, as dotted names with what is taken from them."""
    for node in statements(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            source = absolute(node, module, package=file.name == "__init__.py")
            yield from (f"{source}.{alias.name}" for alias in node.names)


def own_imports(file: Path, module: str) -> set[str]:
    names = [name for name in imports(file, module) if part(name) == "pararealize"]
    return {name.removeprefix("pararealize").lstrip(".") for name in names}


def top_imports(file: Path) -> set[str]:
    """What a file takes from the package, when it is imported itself, with absolute imports."""
    nodes = [node for node in parsed(file).body if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return {name.removeprefix("pararealize.") for name in names}


FILES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def test_relative_imports_are_understood() -> None:
    node = ast.parse("from ..ir import plan").body[0]
    assert isinstance(node, ast.ImportFrom)
    assert absolute(node, "cut.cut", package=False) == "pararealize.ir"
    node = ast.parse("from .vgg import VGG").body[0]
    assert isinstance(node, ast.ImportFrom)
    assert absolute(node, "models", package=True) == "pararealize.models.vgg"


def test_every_part_has_its_place() -> None:
    found = {part_of(module) for module in FILES if module != "runtime"}
    assert found == set(ORDER) - {"models"}


def test_imports_go_one_way() -> None:
    wrong = []
    for module, file in FILES.items():
        if module != "runtime":
            allowed = set(ORDER[: ORDER.index(part_of(module)) + 1])
            lazy = LAZY.get(module, set())
            assert not lazy & top_imports(file)
            found = {part_of(name) for name in own_imports(file, module) - lazy}
            wrong += [f"{module or '__init__'} imports {name}" for name in sorted(found - allowed)]
    assert not wrong, wrong


@pytest.mark.parametrize("module", [m for m in FILES if part_of(m) == "schedule"])
def test_schedules_are_decided_without_tensors(module: str) -> None:
    assert {part_of(name) for name in own_imports(FILES[module], module)} <= SCHEDULE
    assert "torch" not in {part(name) for name in imports(FILES[module], module)}


@pytest.mark.parametrize("file", sorted(MODELS.glob("*.py")), ids=lambda file: file.name)
def test_models_import_nothing_of_the_package_but_layers(file: Path) -> None:
    module = f"models.{module_name(file, MODELS)}".rstrip(".")
    allowed = ("models", "layers")
    assert all(name.startswith(allowed) for name in own_imports(file, module))
    packages = {part(name) for name in imports(file, module)}
    assert packages <= {"torch", "typing", "collections", "math", "pararealize", "dataclasses"}


def test_only_programs_import_what_is_heavy() -> None:
    for module, file in FILES.items():
        if not module.startswith(PROGRAMS):
            heavy = {part(name) for name in imports(file, module)} & HEAVY - DRAWS.get(
                module, set()
            )
            own = own_imports(file, module)
            assert not heavy, module
            assert not [name for name in own if name.startswith(PROGRAMS)], module


IMPORT = """
import sys, torch
torch.manual_seed(3)
def state():
    options = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    return torch.get_rng_state().tolist(), *options
before = state()
import pararealize
distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
print(before == state(), not distributed, *sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_importing_starts_nothing_and_leaves_out_what_is_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, timeout=60
    )
    state_is_kept, nothing_started, *modules = done.stdout.split()
    assert (state_is_kept, nothing_started) == ("True", "True")
    assert not {*HEAVY, "mpi4py", "torchvision", "sklearn", "mlxtend"} & set(modules)


#: What takes long to import, and is for a first compile, or a plan that is saved, to pay.
SLOW = ("torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.fsdp", "sympy")
SLOW_OF_OURS = ("networkx", "cattrs", "attr")

QUICK = """
import sys, torch
before = set(sys.modules)
import pararealize
found = set(sys.modules) - before
print(*sorted(found))
from torch import nn
net = pararealize.pararealize(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), 2,
                              example_inputs=(torch.zeros(2, 4),))
assert pararealize.Plan.from_json(net.plan.to_json()) == net.plan
assert len(net.schedule.dag()) == len(net.schedule.tasks)
wrapped = torch.compile(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), backend="eager")
assert pararealize.pararealize(wrapped, 2, example_inputs=(torch.zeros(2, 4),)).plan.n == 2
"""


def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", QUICK],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "pararealize.compiler" in done.stdout.split()
    assert not {*SLOW, *SLOW_OF_OURS} & set(done.stdout.split())


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    named = project["tool"]["setuptools"]["dynamic"]["version"]
    assert named == {"attr": "pararealize.__version__"}
    changes = (ROOT.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {pararealize.__version__}" in changes


def test_public_names_exist() -> None:
    assert all(hasattr(pararealize, name) for name in pararealize.__all__)
    assert callable(pararealize.pararealize)


def test_examples_import_what_there_is() -> None:
    wrong = []
    for file in sorted((ROOT.parent / "examples").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pararealize"):
                module = importlib.import_module(str(node.module))
                names = [a.name for a in node.names if not hasattr(module, a.name)]
                wrong += [f"{file.name}: {node.module}.{name}" for name in names]
    assert not wrong, wrong


def test_the_wheel_has_every_folder() -> None:
    named = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {".".join(f.parent.relative_to(ROOT.parent).parts) for f in ROOT.rglob("__init__.py")}
    assert set(named["tool"]["setuptools"]["packages"]) == folders | {"pararealize.models"}
