"""HTML: tables and sentences as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from pararealize.explain.table import Table


def table_html(table: Table) -> str:
    """A table with its title; words begin at the left, and marked rows are in bold."""
    head = "".join(f"<th{_side(table, name)}>{escape(name)}</th>" for name in table.columns)
    rows = []
    for i, row in enumerate(table.rows):
        bold = ' style="font-weight:bold"' if i in table.marked else ""
        cells = "".join(
            f"<td{_side(table, name)}>{escape(cell)}</td>"
            for name, cell in zip(table.columns, row, strict=False)
        )
        rows.append(f"<tr{bold}>{cells}</tr>")
    return (
        f'<table><caption style="text-align:left">{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _side(table: Table, column: str) -> str:
    return f' style="text-align:{"left" if column in table.left else "right"}"'


def page_html(parts: Iterable[Table | str]) -> str:
    """Tables, and sentences one a paragraph."""
    texts = (
        table_html(part) if isinstance(part, Table) else f"<p>{escape(part)}</p>" for part in parts
    )
    return f"<div>{''.join(texts)}</div>"
