"""Tables as plain data, and the one way to write them, and sentences, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import final

#: Wide enough for the tables of a plan.
WIDTH = 96
#: What stands between two columns, before a row, and before a marked one.
GAP, MARGIN, MARK = "   ", "  ", "→ "
#: Words are not folded to less than this.
NARROW = 12


def folded(text: str, width: int = WIDTH) -> str:
    """A text whose lines have at most ``width`` characters."""
    return "\n".join(_fold(text, width))


def _fold(text: str, width: int) -> list[str]:
    wrap = partial(textwrap.wrap, width=width, break_on_hyphens=False)
    return [part for line in text.splitlines() for part in wrap(line) or [""]] or [""]


@final
@dataclass(frozen=True)
class Table:
    """A title, names of columns, and rows of cells; a row may have fewer cells than columns.

    Columns named in ``left`` hold words, begin at the left, and are folded where lines are too
    long; the others hold numbers and end at the right. Rows numbered in ``marked`` begin with an
    arrow.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str] = ()
    marked: Collection[int] = ()

    def text(self, width: int = WIDTH) -> str:
        """Title, header and rows in lines of at most ``width`` characters.

        Lines are longer only where numbers and :data:`NARROW` words take more.
        """
        widths = self._widths(width)
        lines = [folded(self.title, width), *self._lines(self.columns, widths, MARGIN)]
        for i, row in enumerate(self.rows):
            lines += self._lines(row, widths, MARK if i in self.marked else MARGIN)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def _widths(self, width: int) -> list[int]:
        """Of every column: its longest cell, or less where that is words and lines are too long."""
        cells = zip_longest(self.columns, *self.rows, fillvalue="")
        widths = [max(map(len, column)) for column in cells]
        words = [i for i, name in enumerate(self.columns) if name in self.left]
        room = width - len(MARGIN) - len(GAP) * (len(widths) - 1)
        while sum(widths) > room and words:
            widest = max(words, key=widths.__getitem__)
            if widths[widest] <= NARROW:
                break
            widths[widest] -= 1
        return widths

    def _lines(self, row: Sequence[str], widths: Sequence[int], margin: str) -> Iterator[str]:
        """A row in as many lines as its longest folded cell has."""
        cells = [_fold(cell, width) for cell, width in zip(row, widths, strict=False)]
        for i, parts in enumerate(zip_longest(*cells, fillvalue="")):
            line = GAP.join(map(self._aligned, self.columns, parts, widths))
            yield f"{MARGIN if i else margin}{line}".rstrip()

    def _aligned(self, column: str, part: str, width: int) -> str:
        return part.ljust(width) if column in self.left else part.rjust(width)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def page(parts: Iterable[Table | str], width: int = WIDTH) -> str:
    """Tables, an empty line after each, and sentences, one a paragraph."""
    texts = (
        f"{part.text(width)}\n" if isinstance(part, Table) else folded(part, width)
        for part in parts
    )
    return "\n".join(texts)
