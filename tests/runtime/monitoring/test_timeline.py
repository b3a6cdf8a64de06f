"""Recording: what happened when."""

import time

import pytest

from pararealize.runtime.monitoring.timeline import Recorder, Span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1, 100))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))


@pytest.mark.usefixtures("clock")
def test_a_span_is_what_happens_in_the_block() -> None:
    recorder = Recorder()
    with recorder.span("v1.0 = fine.1(x)", "apply"):
        assert recorder.spans == []
    assert recorder.spans == [Span("v1.0 = fine.1(x)", "apply", 1, 2)]


@pytest.mark.usefixtures("clock")
def test_a_mark_ends_the_one_before() -> None:
    recorder = Recorder()
    recorder.mark("a", "backward")
    recorder.mark("b", "recv")
    recorder.mark("", "")
    assert recorder.spans == [Span("a", "backward", 1, 2), Span("b", "recv", 2, 3)]


@pytest.mark.usefixtures("clock")
def test_nothing_happens_between_an_empty_mark_and_the_next() -> None:
    recorder = Recorder()
    recorder.mark("", "")
    recorder.mark("a", "backward")
    recorder.mark("", "")
    recorder.mark("", "")
    recorder.mark("b", "backward")
    recorder.mark("", "")
    assert recorder.spans == [Span("a", "backward", 2, 3), Span("b", "backward", 5, 6)]


@pytest.mark.usefixtures("clock")
def test_spans_and_marks_do_not_disturb_each_other() -> None:
    recorder = Recorder()
    recorder.mark("a", "backward")
    with recorder.span("s", "send"):
        pass
    recorder.mark("", "")
    assert recorder.spans == [Span("s", "send", 2, 3), Span("a", "backward", 1, 4)]


def test_recorders_share_nothing() -> None:
    one, other = Recorder(), Recorder()
    with one.span("s", "send"):
        pass
    assert other.spans == []
