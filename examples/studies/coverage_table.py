"""Coverage table: how many networks of each group fare how, and which do not, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from studies.coverage import CoverageRow
from studies.plain_line import TOLERANCE, Fared

Rows = Mapping[tuple[str, str], Fared]
#: Longest reason in a table.
WIDTH = 160
COUNTED: Mapping[str, Callable[[Fared], bool]] = {
    "equal": lambda row: row.outcome == "equal",
    "to the last bit": lambda row: row.outcome == "equal" and not row.off,
    "after advice": lambda row: row.outcome == "advice",
    "refused": lambda row: row.outcome == "refused",
    "late": lambda row: row.outcome == "late",
    "crash": lambda row: row.outcome == "crash",
    "wrong": lambda row: "wrong" in {row.outcome, row.batch, row.size},
    "without inputs": lambda row: row.plain == "yes",
    "by default": lambda row: row.default == "yes",
    "another batch": lambda row: row.batch == "equal",
}


def counts(rows: Rows) -> str:
    """A line for each group."""
    groups = list(dict.fromkeys(group for group, _ in rows))
    head = ("group", "networks", *COUNTED, "another size, of those that take one", "balance", "s")
    lines = [
        (group, *_counted([r for (g, _), r in rows.items() if g == group])) for group in groups
    ]
    return markdown(head, lines)


def _counted(rows: Sequence[Fared]) -> tuple[str, ...]:
    numbers = [str(sum(map(test, rows))) for test in COUNTED.values()]
    sizes = [row.size for row in rows if row.size not in {"", "none"}]
    balances = sorted(row.balance for row in rows if row.balance)
    middle = f"{balances[len(balances) // 2]:.2f}" if balances else "–"
    most = max((row.seconds for row in rows), default=0.0)
    return (
        str(len(rows)),
        *numbers,
        f"{sizes.count('equal')} of {len(sizes)}",
        middle,
        f"≤ {most:.0f}",
    )


def details(rows: Rows) -> str:
    """A line for each network that is not simply equal."""
    odd = [(key, row) for key, row in rows.items() if row.outcome != "equal" or _lasting(row)]
    lines = [
        (f"{group}: {name}", row.outcome, row.batch, row.size, _brief(row.why))
        for (group, name), row in odd
    ]
    return markdown(("network", "outcome", "another batch", "another size", "why"), lines)


def _lasting(row: Fared) -> bool:
    return bool({row.batch, row.size} & {"wrong", "crash"})


def _brief(text: str) -> str:
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def markdown(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = tuple(head)
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def of_cover(row: CoverageRow) -> Fared:
    """What was found of a classifier, in which names and weights have to go over and back."""
    off = max(row.worst("outputs"), row.worst("gradient"))
    if row.error:
        return Fared(row.model, "refused", row.error)
    outcome = "equal" if row.state and off <= max(TOLERANCE, 1e-4) else "wrong"
    return Fared(
        row.model, outcome, n=row.n, cuts=row.interfaces, seconds=row.compile_seconds, off=off
    )
