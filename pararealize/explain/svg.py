"""SVG: the picture of a schedule as text that browsers and notebooks show."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pararealize.explain.gantt import COLOURS, Bar, Gantt

#: Pixels: of the picture and its margins, and of the rows of many and of few ranks.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 960.0, 64.0, 16.0, 52.0, 40.0
LOW, HIGH, ROWS = 9.0, 30.0, 600.0

#: Pixels that a letter of a label takes, and the least height of a row with labels.
LETTER, READABLE = 6.2, 14.0

STYLE = 'font-family="sans-serif" font-size="11"'


def svg(gantt: Gantt) -> str:
    """A page of one rank a row, time to the right; edges in black are the critical path."""
    row = max(LOW, min(HIGH, ROWS / gantt.ranks))
    height = TOP + row * gantt.ranks + BOTTOM
    scale = (WIDTH - LEFT - RIGHT) / (gantt.end or 1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" '
        f'width="100%" style="max-width:{WIDTH:.0f}px;background:white" {STYLE}>',
        f'<text x="{LEFT}" y="16" font-size="13">{escape(gantt.title)}</text>',
        *_legend(gantt),
        *_ranks(gantt, row),
        *(_bar(bar, row, scale) for bar in gantt.bars),
        *_arrows(gantt, row, scale),
        *_axis(gantt, row, scale),
        "</svg>",
    ]
    return "\n".join(parts)


def _legend(gantt: Gantt) -> Iterator[str]:
    x = LEFT
    for kind in gantt.kinds:
        yield f'<rect x="{x:.1f}" y="26" width="12" height="12" fill="{COLOURS[kind][0]}"/>'
        yield f'<text x="{x + 16:.1f}" y="36">{kind}</text>'
        x += 34 + LETTER * len(kind)
    yield f'<rect x="{x:.1f}" y="26" width="12" height="12" fill="none" stroke="black"/>'
    yield f'<text x="{x + 16:.1f}" y="36">critical path</text>'
    if gantt.serial:
        x += 120
        yield f'<path d="M{x:.1f} 32h14" stroke="black" stroke-dasharray="4 2"/>'
        yield f'<text x="{x + 18:.1f}" y="36">serial, {gantt.serial:.3g} ms</text>'


def _ranks(gantt: Gantt, row: float) -> Iterator[str]:
    each = max(1, round(READABLE / row))
    for rank in range(0, gantt.ranks, each):
        y = TOP + (rank + 0.5) * row + 4
        yield f'<text x="{LEFT - 8}" y="{y:.1f}" text-anchor="end">rank {rank}</text>'


def _bar(bar: Bar, row: float, scale: float) -> str:
    fill, ink = COLOURS[bar.kind]
    x, y = LEFT + bar.start * scale, TOP + bar.rank * row + 0.12 * row
    width, height = max(0.5, (bar.stop - bar.start) * scale), 0.76 * row
    edge = ' stroke="black" stroke-width="1.5"' if bar.critical else ""
    text = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{fill}"{edge}><title>{escape(bar.label)}</title></rect>'
    )
    label = bar.fitting(int(width / LETTER)) if row >= READABLE else ""
    if not label:
        return text
    middle = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}"'
    return f'{text}<text {middle} text-anchor="middle" fill="{ink}">{escape(label)}</text>'


def _arrows(gantt: Gantt, row: float, scale: float) -> Iterator[str]:
    for arrow in gantt.arrows:
        down = 1 if arrow.target > arrow.source else -1
        ends = [
            (LEFT + arrow.start * scale, TOP + (arrow.source + 0.5 + 0.38 * down) * row),
            (LEFT + arrow.stop * scale, TOP + (arrow.target + 0.5 - 0.38 * down) * row),
        ]
        (x1, y1), (x2, y2) = ends
        yield f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#444" stroke-width="0.7"/>'


def _axis(gantt: Gantt, row: float, scale: float) -> Iterator[str]:
    y, right = TOP + row * gantt.ranks, WIDTH - RIGHT
    yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="black"/>'
    for i in range(6):
        x = LEFT + i * (right - LEFT) / 5 - (8 if i == 5 else 0)
        moment = gantt.end * i / 5
        yield f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{moment:.3g}</text>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle:.1f}" y="{y + 30:.1f}" text-anchor="middle">{gantt.axis}</text>'
    if gantt.serial:
        x = LEFT + gantt.serial * scale
        yield f'<path d="M{x:.1f} {TOP}V{y:.1f}" stroke="black" stroke-dasharray="4 2"/>'
