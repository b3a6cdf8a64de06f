"""README and docs: one page that links to the others, whose code runs and whose commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

from pararealize import Parareal, errors, load, pararealize
from pararealize.cli.app import app
from pararealize.cli.zoos import import_torchvision
from pararealize.models import odenet, resnet
from pararealize.runtime.monitoring.progress import Progress

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!http)([^)#]+)")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

pytestmark = [
    pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning"),
    pytest.mark.filterwarnings("ignore::pararealize.errors.InaccurateWarning"),
]
#: Pages whose code runs in a sample as well: what is read first, and what is least tried elsewhere.
FIRST = {"README.md", "methods.md", "gpu.md"}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, kind: str) -> list[str]:
    """The blocks of code of a language, without their indentation."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        re.sub(f"^{space}", "", text, flags=re.M) for space, lang, text in found if lang == kind
    ]


def test_the_readme_is_one_page() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 200


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {ROOT / target for target in LINK.findall(PAGES[0].read_text(encoding="utf-8"))}
    assert set(PAGES[1:]) <= linked


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """``mkdocs build --strict``, which .ci/run does, would find it as well, but late."""
    site = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    there = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in {".md", ".ipynb"}}
    assert set(re.findall(r"[\w-]+\.(?:md|ipynb)", site)) == there


# blocks of Python: each in a new folder, with what a reader has at hand


def text_model() -> dict[str, Any]:
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    small = transformers.GPT2Config(n_layer=4, n_embd=8, n_head=2, vocab_size=11, n_positions=8)
    tokens = torch.arange(8).reshape(1, 8)

    class Small:
        """The names that the page uses, for a network of the same kind that is small."""

        GPT2LMHeadModel = transformers.GPT2LMHeadModel

        @staticmethod
        def GPT2Config(n_layer: int, use_cache: bool) -> Any:
            small.use_cache = use_cache
            assert n_layer > 1
            return small

    return {"transformers": Small, "tokens": tokens}


def converted() -> dict[str, Any]:
    def factory() -> nn.Module:
        torch.manual_seed(0)
        return resnet(20, width=4)

    pararealize(factory().eval(), 2, example_inputs=(torch.randn(1, 3, 32, 32),)).save("OUT")
    return {"factory": factory}


def small() -> dict[str, Any]:
    x = torch.randn(2, 3, 32, 32)
    return {
        "model": resnet(20, width=4),
        "resnet": lambda _depth: resnet(38, width=4),
        "Parareal": Parareal,
        "x": x,
        "y": torch.tensor([0, 1]),
        "f": nn.functional.cross_entropy,
    }


def resumed() -> dict[str, Any]:
    given = small()
    net = pararealize(given["model"], 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    given["f"](net(given["x"]), given["y"]).backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    return given | {
        "net": net,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "load": load,
        "Model": lambda: resnet(20, width=4),
        "rank": 0,
        "comm": None,
    }


def watched() -> dict[str, Any]:
    tqdm = pytest.importorskip("tqdm").tqdm
    return small() | {"tqdm": tqdm, "Progress": Progress, "contextmanager": contextmanager}


#: What the blocks of a page take for granted, besides torch and pararealize.
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "networks.md": text_model,
    "notebooks.md": watched,
    "ranks.md": resumed,
    "conversion.md": converted,
    "mgrit.md": lambda: {"model": odenet(32)},
}
PYTHON = [(page, text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("page", "text"),
    [
        pytest.param(*each, marks=[pytest.mark.rest] * (each[0].name not in FIRST))
        for each in PYTHON
    ],
    ids=[f"{page.name}-{i}" for i, (page, _) in enumerate(PYTHON)],
)
def test_code_runs(page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"torch": torch, "nn": nn, "pararealize": pararealize}
    given |= GIVEN.get(page.name, small)()
    if "MGRIT" in text:
        given["model"] = odenet(32)
    exec(compile(text, page.name, "exec"), given)


# commands: their names and options exist; those that take long were run by hand


def commands(page: Path) -> Iterator[list[str]]:
    text = page.read_text(encoding="utf-8")
    shell = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    for line in (*shell, *re.findall(r"`([^`\n]+)`", text)):
        words = shlex.split(line.partition("  #")[0]) if "'" not in line else line.split()
        starts = [i for i, word in enumerate(words) if word.endswith(("pararealize", "python"))]
        if starts and ("=" not in words[0] or len(words) > 3) and "import" not in words:
            yield words[starts[-1] :]


@every_page
def test_commands_exist(page: Path) -> None:
    known = typer.main.get_command(app).commands
    for name, *words in commands(page):
        if name.endswith("pararealize") and words and not words[0].startswith("--"):
            assert words[0] in known, words
            options = {o for p in known[words[0]].params for o in (*p.opts, *p.secondary_opts)}
            assert {w for w in words if w.startswith("-")} <= options | {"--help"}, words
        elif name.endswith("python"):
            scripts = [w for w in words if w.endswith(".py") and "/" in w and "path/to" not in w]
            for script in scripts:
                source = (ROOT / script).read_text(encoding="utf-8")
                if "add_data(" in source:  # options that studies share
                    shared = ROOT / "examples" / "studies" / "datasets.py"
                    source += shared.read_text(encoding="utf-8")
                own = words[words.index(script) + 1 :]
                for option in (w for w in own if w.startswith("--")):
                    assert f'"{option}"' in source, (script, option)


# errors


def test_every_error_has_its_row() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+(?:Error|Warning))`", text))
    assert named == {name for name in vars(errors) if name.endswith(("Error", "Warning"))}


def test_what_errors_say_is_in_the_source() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "pararealize").rglob("*.py"))
    said = re.findall(r"`[A-Z]\w+`: (.*?) \|", text)
    said += re.findall(r"^\| `(….*?)` \|", text, re.MULTILINE)
    parts = [part.strip() for row in said for part in re.split("…|n=", row) if len(part) > 9]
    assert parts
    for part in parts:
        assert part in source, part
