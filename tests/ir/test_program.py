"""Programs: what operations read, renaming, and segments cut out of them."""

import operator

import pytest
from torch import nn

from pararealize.ir.program import Operation, Program, Ref, cut_segment
from pararealize.tracing.trace import trace

PROGRAM = Program(
    (
        Operation("flag", "training", "block", scope="block"),
        Operation("x", "input", "x"),
        Operation("w", "attribute", "block.weight", scope="block"),
        Operation("a", "module", "stem", (Ref("x"),)),
        Operation("b", "function", operator.mul, (Ref("a"), Ref("w")), scope="block"),
        Operation("c", "method", "clamp", (Ref("b"),), {"min": Ref("a"), "max": [Ref("x"), 2]}),
        Operation("d", "function", operator.add, (Ref("c"), Ref("flag"))),
        Operation("output", "output", "output", ((Ref("d"), Ref("c")),)),
    )
)


def test_uses_are_found_in_nested_arguments_once_in_order() -> None:
    assert PROGRAM["c"].uses == ("b", "a", "x")
    assert PROGRAM["output"].uses == ("d", "c")
    twice = Operation("t", "function", operator.add, (Ref("a"), Ref("a")))
    assert twice.uses == ("a",)
    assert PROGRAM["x"].uses == ()


def test_renamed_changes_what_is_read_only() -> None:
    renamed = PROGRAM["c"].renamed({"b": "z", "x": "y", "unused": "q"})
    assert renamed.args == (Ref("z"),)
    assert renamed.kwargs == {"min": Ref("a"), "max": [Ref("y"), 2]}
    assert (renamed.name, renamed.kind, renamed.target) == ("c", "method", "clamp")
    assert renamed.uses == ("z", "a", "y")
    assert PROGRAM["c"].uses == ("b", "a", "x")


def test_program_looks_up_by_name() -> None:
    assert PROGRAM["b"].target is operator.mul
    assert PROGRAM.index["d"] == 6
    assert [o.name for o in PROGRAM.inputs] == ["x"]
    assert len(PROGRAM) == len(list(PROGRAM)) == 8
    with pytest.raises(KeyError):
        PROGRAM["nothing"]


def test_operations_describe_themselves() -> None:
    assert PROGRAM["a"].describe == "stem"
    assert PROGRAM["b"].describe == "mul in block"
    assert PROGRAM["c"].describe == "clamp"
    assert repr(Ref("a")) == "%a"


def test_segment_takes_the_ambient_operations_it_needs() -> None:
    segment = cut_segment(PROGRAM, 4, 6, ("a",), ("c",))
    assert [o.name for o in segment.operations] == ["w", "b", "c"]
    assert segment.state == ("a",)
    assert segment.inputs == ("x",)
    assert segment.results == ("c",)


def test_first_and_last_segments() -> None:
    first = cut_segment(PROGRAM, 0, 4, (), ("a",))
    assert ([o.name for o in first.operations], first.inputs) == (["a"], ("x",))
    last = cut_segment(PROGRAM, 6, 8, ("c",), None)
    assert [o.name for o in last.operations] == ["flag", "d", "output"]
    assert last.inputs == ()
    assert last.results is None


def test_an_ambient_result_is_part_of_the_segment() -> None:
    segment = cut_segment(PROGRAM, 3, 4, (), ("a", "w"))
    assert [o.name for o in segment.operations] == ["w", "a"]


def test_segments_of_a_traced_network_cover_it_once() -> None:
    program = trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))).train
    halves = [cut_segment(program, 0, 2, (), ("_0",)), cut_segment(program, 2, 5, ("_0",), None)]
    names = [o.name for half in halves for o in half.operations]
    assert names == ["_0", "_1", "_2", "output"]
