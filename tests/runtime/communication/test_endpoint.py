"""Endpoints: calls that agree, messages whose form is learnt once, adjoints on their way back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from local_ranks import all_of, on_ranks
from local_transport import LocalGroup, LocalTransport
from pararealize.errors import DisagreementError, PeerError, ShapeError
from pararealize.runtime.communication.backward_end import BackwardEnd
from pararealize.runtime.communication.endpoint import Call, Endpoint
from pararealize.runtime.communication.message import Message
from pararealize.runtime.communication.peer_to_peer import ROW
from pararealize.runtime.monitoring.timeline import Recorder

#: From rank 0 to rank 1, the first two of a schedule.
STATE, OTHER = Message("u1.0", 0, 1, 0), Message("u1.1", 0, 1, 1)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def begun(
    endpoint: Endpoint, size: int = 2, *, training: bool = True, trainable: bool = True
) -> Call:
    """A call with a batch of so many samples."""
    return endpoint.begin({"x": torch.zeros(size)}, training=training, trainable=trainable)


def sending(state: Any, *messages: Message) -> Callable[[LocalTransport], Any]:
    """Work of two ranks: the state goes from 0 to 1, in one call; what arrives."""

    def work(transport: LocalTransport) -> Any:
        call = begun(Endpoint(transport, messages or (STATE,)))
        if transport.rank == 0:
            return call.send(STATE, state)[0]
        return taken(call)

    return work


def taken(call: Call, message: Message = STATE) -> Any:
    """The state that has arrived."""
    return call.expect(message).fill(call.take(message))


def pair() -> tuple[Endpoint, Endpoint]:
    """Both ends in this thread, for calls that both begin before either waits."""
    group = LocalGroup(2, patience=5)
    return Endpoint(group.member(0), [STATE, OTHER]), Endpoint(group.member(1), [STATE, OTHER])


# agreement


def test_a_rank_alone_agrees_with_itself() -> None:
    call = begun(Endpoint(LocalGroup(1).member(0), []), trainable=False)
    call.settle()
    assert not call.learns()


def test_what_wants_gradients_is_known_by_rank() -> None:
    """λ comes back to a rank if anything up to it learns; the output if anything does at all."""

    def work(transport: LocalTransport) -> Any:
        call = begun(Endpoint(transport, []), trainable=transport.rank == 1)
        call.settle()
        return [call.learns(upto) for upto in (0, 1, 2)], call.learns()

    assert all_of(3, work) == [([False, True, True], True)] * 3


def test_nothing_is_learnt_without_gradients() -> None:
    def work(transport: LocalTransport) -> Any:
        with torch.no_grad():
            call = begun(Endpoint(transport, []))
            call.settle()
        return call.learns(), call.anchor.requires_grad

    assert all_of(2, work) == [(False, False)] * 2


def test_an_input_that_wants_a_gradient_is_learnt_from() -> None:
    def work(transport: LocalTransport) -> Any:
        x = torch.zeros(2, requires_grad=True)
        call = Endpoint(transport, []).begin({"x": x}, training=True, trainable=False)
        call.settle()
        return call.learns(0)

    assert all_of(2, work) == [True, True]


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({"size": 3}, ("x [2] float32", "x [3] float32")),
        ({"training": False}, ("train mode", "eval mode")),
    ],
)
def test_ranks_that_disagree_name_what_each_was_called_with(
    here: dict[str, Any], words: tuple[str, str]
) -> None:
    def work(transport: LocalTransport) -> None:
        last = transport.rank == 2
        begun(Endpoint(transport, []), **(here if last else {})).settle()

    errors = on_ranks(3, work)
    for error in errors:
        assert isinstance(error, DisagreementError)
        assert isinstance(error, ShapeError)
        text = str(error)
        for rank, word in enumerate((words[0], words[0], words[1])):
            _, _, said = text.partition(f"rank {rank}: ")
            assert word in said.split(";")[0]


def test_ranks_with_other_values_give_up_what_they_have_posted() -> None:
    """After a failure they compare again, whatever each of them has counted before."""

    def work(transport: LocalTransport) -> Any:
        endpoint = Endpoint(transport, [])
        endpoint.agreed = 100 + transport.rank
        transport.give_up("all know of it")
        endpoint.begin({"x": torch.ones(2)}, training=True, trainable=True).settle()
        other = torch.full((2,), float(transport.rank))
        with pytest.raises(DisagreementError, match="rank 1 was called with other inputs"):
            endpoint.begin({"x": other}, training=True, trainable=True).settle()
        broken = transport.broken
        begun(endpoint).settle()
        return "other inputs" in broken, transport.epoch

    assert all_of(2, work) == [(True, 2)] * 2


def test_agreement_is_asked_for_once_and_waited_for_where_it_is_needed() -> None:
    """A call may begin before the others have: nothing waits in it."""
    one, other = pair()
    first, second = begun(one), begun(other)
    first.settle()
    second.settle()
    second.settle()  # nothing is gathered again, which would wait for rank 0
    assert (first.key, second.key) == (first.key, first.key)


# messages


STATES = {
    "a tensor": numbers(1, 2),
    "a tuple": (numbers(1), torch.tensor([3, 4])),
    "a nest": {"a": [numbers(1), numbers(2, 3)], "b": numbers(4)},
    "constants": (numbers(1), 2.5, None),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_arrives_as_it_is(state: Any) -> None:
    _, found = all_of(2, sending(state))
    assert repr(found) == repr(state)


def test_the_form_travels_in_the_first_call_alone() -> None:
    one, other = pair()
    posts = []
    objects, receive = one.transport.send_object, other.transport.receive

    def counted(*what: Any) -> None:
        posts.append("form")
        objects(*what)

    def posted(*what: Any) -> Any:
        posts.extend(["receive"] * (what[2] != ROW))
        return receive(*what)

    one.transport.send_object = counted  # type: ignore[method-assign]
    other.transport.receive = posted  # type: ignore[method-assign]
    for i, new in enumerate((True, False, False)):
        posts.clear()
        first, second = begun(one), begun(other)
        # Known receives are posted as the call begins, before anything has been sent.
        assert posts == ([] if new else ["receive"])
        first.send(STATE, numbers(i, i))
        assert posts == (["form"] if new else ["receive"])
        assert taken(second).tolist() == [i, i]
        # A form is received as its length and its bytes.
        assert sorted(posts) == (["form", *["receive"] * 3] if new else ["receive"])


def test_forms_belong_to_the_signature_of_a_call() -> None:
    one, other = pair()
    for size in (2, 3, 2, 3):  # a larger batch, and the smaller one again
        first, second = begun(one, size), begun(other, size)
        first.send(STATE, torch.ones(size))
        assert taken(second).shape == (size,)
    assert len(one.forms) == len(other.forms) == 2


def test_without_early_receives_nothing_is_posted() -> None:
    one, other = pair()
    other.transport.early = False  # type: ignore[misc]
    for _ in range(2):
        first, second = begun(one), begun(other)
        assert not second._posted
        first.send(STATE, numbers(1))
        assert taken(second).tolist() == [1]


def test_constants_travel_in_every_call() -> None:
    one, other = pair()
    for number in (1, 2):
        first, second = begun(one), begun(other)
        first.send(STATE, (numbers(1), number))
        assert taken(second)[1] == number


@pytest.mark.parametrize("now", [numbers(1, 2, 3), torch.ones(2), (numbers(1), numbers(2))])
def test_another_shape_in_a_later_call_is_refused(now: Any) -> None:
    one, other = pair()
    calls = begun(one), begun(other)
    calls[0].send(STATE, numbers(1, 2))
    call, _ = begun(one), begun(other)
    with pytest.raises(ShapeError, match=r"u1\.0 was \[2\] float64 .* is .* now.*interfaces="):
        call.send(STATE, now)


def test_messages_of_two_calls_and_of_two_places_do_not_mix() -> None:
    one, other = pair()
    calls = [(begun(one), begun(other)) for _ in range(3)]
    for i, (first, _) in enumerate(calls):
        first.send(OTHER, numbers(10 + i))
        first.send(STATE, numbers(i))
    for i in (0, 2, 1):  # forms come with the first
        assert taken(calls[i][1], STATE).tolist() == [i]
        assert taken(calls[i][1], OTHER).tolist() == [10 + i]


# adjoints


def test_adjoints_come_back_for_numbers_that_have_them() -> None:
    one, other = pair()
    first, second = begun(one), begun(other)
    form, _ = first.send(STATE, (numbers(1), torch.tensor([3]), numbers(2, 3)))
    taken(second)
    sent = other.transport.sent_messages
    second.send_adjoint(STATE, form, [numbers(5), torch.tensor([0]), numbers(6, 7)])
    assert other.transport.sent_messages - sent == 2
    found = first.take_adjoint(STATE, form)
    assert [None if each is None else each.tolist() for each in found] == [[5], None, [6, 7]]


def test_adjoints_and_states_that_go_one_way_do_not_mix() -> None:
    """λ of the first message is waited for while the first one of its way is still there."""
    one, other = pair()
    result = Message("out", 1, 0, STATE.index)
    first, second = begun(one), begun(other)
    form, _ = first.send(STATE, numbers(1))
    taken(second)
    second.send(result, numbers(2))
    second.send_adjoint(STATE, form, [numbers(3)])
    assert first.take_adjoint(STATE, form)[0].tolist() == [3]
    assert taken(first, result).tolist() == [2]


def test_only_answers_of_some_messages_are_waited_for() -> None:
    call = begun(pair()[0])
    tokens = {message: torch.zeros(()) for message in (STATE, OTHER)}
    for message, token in tokens.items():
        call.left(message, None, token)  # type: ignore[arg-type]
    call.keep_token(torch.ones(()))
    assert len(call.tokens) == 3
    call.only_answers([OTHER])
    assert call.tokens[0].item() == 1
    assert [id(token) for token in call.tokens[1:]] == [id(tokens[OTHER])]


# failures, and what is recorded


def test_a_backward_pass_that_stopped_is_told_at_once_and_got_over_in_the_next_call() -> None:
    one, other = pair()
    for _ in range(2):  # a second failure is announced like the first
        call, waiting = begun(one), begun(other)
        end = BackwardEnd(one.closed, one.stopped)
        one.open = call
        one.reach("subnetwork 2", "backward")
        del end  # as autograd lets go of it where a node raises
        with pytest.raises(PeerError, match="rank 0 of 2 stopped in the backward pass of subnet"):
            taken(waiting)
        assert one.open is None
        with pytest.raises(PeerError, match="stopped in the backward pass"):
            call.send(STATE, numbers(1))  # nothing goes on in what was under way

        def again(rank: int) -> Any:
            mine = begun((one, other)[rank])
            return mine.send(STATE, numbers(1)) if rank == 0 else taken(mine).tolist()

        with ThreadPoolExecutor() as threads:
            assert list(threads.map(again, range(2)))[1] == [1]
        assert one.transport.position == ""


def test_a_backward_pass_that_ended_lets_the_next_call_begin() -> None:
    one, _ = pair()
    one.open = begun(one)
    one.reach("subnetwork 2", "backward")
    one.closed()
    assert one.open is None
    assert one.transport.position == ""
    begun(one)


def test_adjoints_are_recorded_by_where_they_go() -> None:
    one, other = pair()
    first, second = begun(one), begun(other)
    form, _ = first.send(STATE, numbers(1))
    one.recorder, other.recorder = Recorder(), Recorder()
    second.send_adjoint(STATE, form, [numbers(1)])
    first.take_adjoint(STATE, form)
    one.closed()
    other.closed()
    spans = [(s.name, s.kind) for endpoint in (one, other) for s in endpoint.recorder.spans]
    assert spans == [("adjoint of u1.0 ← 1", "recv"), ("adjoint of u1.0 → 0", "send")]
