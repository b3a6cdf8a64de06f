"""Explanation: a plan in words and tables, as text, as HTML, and as data."""

from __future__ import annotations

import json
from typing import Any, final

from pararealize.explain.explain import explain, parts
from pararealize.explain.html import page_html
from pararealize.explain.table import Table
from pararealize.ir.plan import Plan


@final
class Explanation(str):
    """The text of :func:`~pararealize.explain.explain.explain`, which notebooks show as tables."""

    plan: Plan

    def __new__(cls, plan: Plan) -> Explanation:
        """The explanation of a plan."""
        found = super().__new__(cls, explain(plan))
        found.plan = plan
        return found

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> Any:
        return Explanation, (self.plan,)

    def _repr_html_(self) -> str:
        return page_html(parts(self.plan))

    def to_dict(self) -> dict[str, Any]:
        """The tables by title, the sentences, and the whole plan in numbers: data for JSON."""
        every = parts(self.plan)
        return {
            "model": self.plan.model,
            "n": self.plan.n,
            "speedup": self.plan.speedup,
            "tables": {
                table.title: [dict(zip(table.columns, row, strict=False)) for row in table.rows]
                for table in every
                if isinstance(table, Table)
            },
            "sentences": [text for text in every if isinstance(text, str)],
            "plan": json.loads(self.plan.to_json()),
        }
