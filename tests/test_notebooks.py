"""The notebooks of docs/, one for each door: they run, and show what they showed when written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
manager = pytest.importorskip("jupyter_client.manager")

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

#: Names that a notebook leaves behind go, modules stay imported: they take longest.
FORGET = "%reset -f"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def shown(notebook: Any) -> list[list[tuple[str, ...]]]:
    """The kinds of what each cell of code shows: streams by name, and forms of results."""
    return [
        [(o.output_type, o.get("name", ""), *sorted(o.get("data", {}))) for o in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_there_is_one_for_each_door() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["layer-parallel", "train", "trained"]
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in text for path in NOTEBOOKS)


@every_notebook
def test_outputs_are_kept(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert any("image/png" in str(each) or "text/html" in str(each) for each in shown(notebook))


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """One for all notebooks, which stay with one worker (conftest.py)."""
    started = manager.KernelManager(kernel_name="python3", transport="ipc")
    started.start_kernel()
    yield started
    started.shutdown_kernel(now=True)


@pytest.mark.rest
@every_notebook
def test_a_notebook_runs(path: Path, kernel: Any) -> None:
    notebook = read(path)
    wanted = shown(notebook)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FORGET))
    nbclient.NotebookClient(notebook, km=kernel, timeout=300, resources={}).execute()
    assert shown(notebook)[1:] == wanted
