"""Options in groups: a dataclass a command takes becomes options of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from pararealize.cli.options import grouped, names_of


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("-w", help="How wide.")] = 3
    tall: bool = False


SEEN: list[object] = []


def draw(ctx: typer.Context, name: str, size: Size, colour: str = "red") -> None:
    """Draw something."""
    SEEN.append((ctx.info_name, name, size, colour))


def test_a_field_is_an_option() -> None:
    app = typer.Typer()
    app.command()(grouped(draw))
    runner = CliRunner()
    assert runner.invoke(app, ["box"]).exit_code == 0
    assert runner.invoke(app, ["box", "-w", "5", "--tall", "--colour", "blue"]).exit_code == 0
    assert SEEN[-2:] == [
        ("draw", "box", Size(), "red"),
        ("draw", "box", Size(5, tall=True), "blue"),
    ]
    assert runner.invoke(app, ["box", "-w", "wide"]).exit_code == 2
    assert "How wide." in runner.invoke(app, ["--help"]).output
    assert "Draw something." in runner.invoke(app, ["--help"]).output


def test_names_of_several_groups() -> None:
    assert names_of(Size, Size) == ("width", "tall", "width", "tall")
