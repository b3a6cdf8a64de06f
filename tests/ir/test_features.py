"""Segments taken apart: what makes a value, and what reads it."""

from __future__ import annotations

from pararealize.ir.features import split
from pararealize.ir.program import Operation, Ref, Segment


def segment(last_reads: str) -> Segment:
    operations = (
        Operation("scale", "attribute", "scale"),
        Operation("a", "module", "opening", (Ref("x"),)),
        Operation("b", "function", max, (Ref("a"), Ref("scale"))),
        Operation("c", "function", max, (Ref("b"), Ref(last_reads))),
    )
    return Segment(operations, (), ("x",), ("c",))


def test_a_segment_is_split_at_a_value() -> None:
    parts = split(segment("scale"), "b")
    assert parts is not None
    lead, rest = parts
    assert [o.name for o in lead.operations] == ["scale", "a", "b"]
    assert (lead.state, lead.results) == ((), ("b",))
    assert [o.name for o in rest.operations] == ["scale", "c"]
    assert (rest.state, rest.inputs, rest.results) == (("b",), (), ("c",))


def test_a_segment_is_not_split_where_other_values_are_read_later() -> None:
    assert split(segment("a"), "b") is None
    assert split(segment("scale"), "scale") is None
