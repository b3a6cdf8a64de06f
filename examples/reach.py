"""How far two tools reach: the same small networks, cut by each, and what is left of them.

Torch's own ``pipeline()`` is split before modules named for each network and its stages run one
GPipe step on as many ranks over gloo; ``pararealize`` runs in the setting in which it has to equal
the serial network. Every cell was run, in processes of its own:

    python examples/reach.py [PART OF A NETWORK'S NAME ...]
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from reach_cases import cases

from pararealize.explain.table import Table, folded
from studies.processes import FailedError, in_processes
from studies.reach import QUESTIONS, Case, Finding, ReachRow, Tool, examine
from studies.running import start
from studies.tools import OURS, PIPELINING

#: Longest time for one tool on one network.
SECONDS = 300.0

#: Of the table.
WIDTH = 132

LEGEND = (
    "follows eval(): cut in train mode, then eval(): the serial network's answer in eval mode; "
    "n/a where both modes compute the same.",
    "keeps names: keys of the pieces' state_dict() are the original's.",
    "equals serial: output, gradients and buffers of a training step without dropout, float64; "
    "gradients of copies of a tied weight are added up first.",
    "keeps ties: a weight with two names is one parameter; n/a where no weight has.",
)


def study(tool: Tool, case: Case) -> ReachRow:
    """What the tool makes of the network, in a process of its own."""
    try:
        return in_processes([partial(examine, tool, case)], SECONDS)[0]
    except FailedError as error:
        return ReachRow(tool.name, case.name, case.pieces, Finding("no", str(error)))


class Notes:
    """Numbered reasons, each told once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def cell(self, tool: str, finding: Finding) -> str:
        """The answer, with the number of its reason where it is no."""
        if finding.answer != "no":
            return finding.answer
        text = f"{tool}: {finding.reason}"
        if text not in self.texts:
            self.texts.append(text)
        return f"no ({self.texts.index(text) + 1})"


def show(rows: Sequence[ReachRow]) -> None:
    """The table, what its columns ask, and the reasons of every no."""
    notes = Notes()
    columns = ("network", "pieces", "tool", "compiles", "seconds", *QUESTIONS)
    cells = [_cells(row, notes) for row in rows]
    title = f"{torch.get_num_threads()} thread, torch {torch.__version__}"
    print(Table(title, columns, cells, left=columns).text(WIDTH))
    told = (f"({number}) {text}" for number, text in enumerate(notes.texts, 1))
    for text in (*LEGEND, *told):
        print(folded(text, WIDTH))


def _cells(row: ReachRow, notes: Notes) -> tuple[str, ...]:
    asked = [row.findings.get(question, Finding("–")) for question in QUESTIONS]
    seconds = "–" if row.seconds is None else f"{row.seconds:.2f}"
    first, *rest = (notes.cell(row.tool, each) for each in (row.compiles, *asked))
    return (row.case, str(row.pieces), row.tool, first, seconds, *rest)


def main() -> None:
    """Examine every network, or those whose names contain one of the arguments."""
    warnings.simplefilter("ignore")
    logging.disable()  # torch.export writes whole graphs when it fails
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wanted = sys.argv[1:] or [""]
    chosen = [case for case in cases() if any(part in case.name for part in wanted)]
    show([study(tool, case) for case in chosen for tool in (PIPELINING, OURS)])


if __name__ == "__main__":
    start(main)
