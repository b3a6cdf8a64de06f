"""Messages as nodes of autograd's graph: two threads differentiate what one does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from local_ranks import all_of
from local_transport import LocalTransport
from pararealize.runtime.communication.autograd import (
    Entry,
    ReceivedState,
    SentState,
    SharedOutput,
)
from pararealize.runtime.communication.endpoint import Call, Endpoint
from pararealize.runtime.communication.message import Message
from pararealize.runtime.communication.passage import Passage
from pararealize.runtime.monitoring.timeline import Recorder

STATE, RESULT = Message("u1.0", 0, 1, 0), Message("out", 1, 0, 0, carries=False)

#: The same products and sums in float64, in another order at most.
ROUNDING = 1e-14


@dataclass
class Weights:
    """Of the two halves of a network, and of what guesses the state between them."""

    first: Tensor
    second: Tensor
    guess: Tensor

    @classmethod
    def drawn(cls) -> Weights:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(3, 3, 3, dtype=torch.float64, generator=generator)
        return cls(*(w.clone().requires_grad_() for w in drawn))

    def half(self, x: Tensor) -> Tensor:
        """Φ_1."""
        return torch.tanh(x @ self.first)

    def rest(self, u: Tensor, x: Tensor, fine: Callable[[Tensor], Tensor] = lambda v: v) -> Any:
        """Φ_2(C(x)) + (u - C(x)): the paper's network with identities for corrections."""
        guess = x @ self.guess
        return fine(torch.tanh(guess @ self.second)), guess

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.first, self.second, self.guess


def batch() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_()


def serial(weights: Weights, x: Tensor) -> Tensor:
    made, guess = weights.rest(weights.half(x), x)
    return made + (weights.half(x) - guess)


def receive(call: Call, message: Message, anchor: Tensor) -> Any:
    form = call.expect(message)
    carries = message.carries and call.learns(message.source)
    return form.fill(
        ReceivedState.apply(Passage(call, message, form), anchor) if carries else call.take(message)
    )


def send(call: Call, message: Message, value: Any, anchor: Tensor) -> None:
    form, tensors = call.send(message, value)
    if message.carries and call.learns(message.source):
        token = SentState.apply(Passage(call, message, form), anchor, *tensors)
        call.left(message, form, token)


def on_endpoint(
    own: Endpoint, weights: Weights, x: Tensor, fine: Callable[[Tensor], Tensor] = lambda v: v
) -> Tensor:
    """The same on a rank of two: the state is received after the fine propagator has run."""
    call = own.begin({"x": x}, training=True, trainable=True)
    anchor, entered = Entry.apply(call, 1, call.anchor, x, *weights.all)
    first = own.transport.rank == 0
    if first:
        send(call, STATE, weights.half(entered), anchor)
        output = receive(call, RESULT, anchor)
    else:
        made, guess = weights.rest(None, entered, fine)
        output = made + (receive(call, STATE, anchor) - guess)
        send(call, RESULT, output, anchor)
    call.settle()
    (result,) = shared_output(call, [output], (*call.tokens, anchor), made=not first)
    return result


def shared_output(
    call: Call,
    tensors: Sequence[Tensor],
    tokens: Sequence[Tensor],
    *,
    made: bool,
    shares: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """The network's output, and after it the sums over all ranks of ``shares``."""
    counts = len(tensors), len(shares)
    return SharedOutput.apply(call, made, counts, *tensors, *shares, *tokens)[:-1]


def endpoint(transport: LocalTransport) -> Endpoint:
    return Endpoint(transport, [STATE, RESULT])


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool(torch.linalg.vector_norm(found - wanted) <= ROUNDING * (1 + wanted.norm()))


def test_two_threads_differentiate_what_one_does() -> None:
    """Each has the gradients of its own weights, and both that of the input."""
    alone, x = Weights.drawn(), batch()
    wanted = serial(alone, x)
    wanted.square().sum().backward()

    def work(transport: LocalTransport) -> Any:
        weights, own = Weights.drawn(), batch()
        output = on_endpoint(endpoint(transport), weights, own)
        output.square().sum().backward()
        return output, own.grad, [w.grad for w in weights.all]

    (one, x_one, (first, *others)), (two, x_two, (none, second, guess)) = all_of(2, work)
    assert others == [None, None]
    assert none is None
    assert close(one, wanted)
    assert torch.equal(one, two)
    pairs = zip((first, second, guess), alone.all, strict=True)
    assert all(close(found, w.grad) for found, w in pairs)
    assert close(x_one, x.grad)
    assert torch.equal(x_one, x_two)


def test_the_derivative_is_that_of_the_function() -> None:
    """Central differences of 1e-5: their error is of its square, 1e-10, and rounding 1e-11."""
    step, direction = 1e-5, torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)

    def work(transport: LocalTransport) -> tuple[float, float]:
        own, weights, x = endpoint(transport), Weights.drawn(), batch()

        def loss(at: Tensor) -> Tensor:
            return on_endpoint(own, weights, at).sin().sum()

        loss(x).backward()
        with torch.no_grad():
            ahead, behind = (loss(x + sign * step * direction) for sign in (1, -1))
        return float((x.grad * direction).sum()), float((ahead - behind) / (2 * step))

    for found, wanted in all_of(2, work):
        assert found == pytest.approx(wanted, abs=1e-9)


def test_gradients_of_two_calls_accumulate() -> None:
    alone = Weights.drawn()
    sum(serial(alone, scale * batch()).square().sum() for scale in (1, 2)).backward()

    def work(transport: LocalTransport) -> Any:
        own, weights = endpoint(transport), Weights.drawn()
        outputs = [on_endpoint(own, weights, scale * batch()) for scale in (1, 2)]
        sum(output.square().sum() for output in outputs).backward()
        return [w.grad for w in weights.all]

    (first, *_), (_, second, guess) = all_of(2, work)
    pairs = zip((first, second, guess), alone.all, strict=True)
    assert all(close(found, w.grad) for found, w in pairs)


def test_a_graph_that_is_kept_is_gone_through_again() -> None:
    def work(transport: LocalTransport) -> Any:
        weights = Weights.drawn()
        own = weights.all[transport.rank]
        loss = on_endpoint(endpoint(transport), weights, batch()).square().sum()
        loss.backward(retain_graph=True)
        once = own.grad.clone()
        loss.backward()
        return torch.equal(own.grad, 2 * once)

    assert all_of(2, work) == [True, True]


def test_adjoints_leave_before_the_fine_propagator_runs_backward() -> None:
    """The state is received after the fine propagator has run; autograd goes the other way."""

    def work(transport: LocalTransport) -> Any:
        own = endpoint(transport)

        def fine(value: Tensor) -> Tensor:
            value.register_hook(lambda _: own.reach("fine.2", "backward"))
            return value

        output = on_endpoint(own, Weights.drawn(), batch(), fine)
        own.recorder = Recorder()
        output.sum().backward()
        return [span.name for span in own.recorder.spans]

    assert all_of(2, work) == [["adjoint of u1.0 ← 1"], ["adjoint of u1.0 → 0", "fine.2"]]


def test_a_backward_pass_opens_and_closes() -> None:
    def work(transport: LocalTransport) -> Any:
        own, seen = endpoint(transport), []
        output = on_endpoint(own, Weights.drawn(), batch())
        output.register_hook(lambda _: seen.append(own.open is not None))
        (output * 1.0).sum().backward()
        return seen, own.open is not None

    assert all_of(2, work) == [([False], False)] * 2


# whole numbers, sums, and what was not asked for


def test_whole_numbers_and_truth_values_carry_no_adjoint() -> None:
    def work(transport: LocalTransport) -> Any:
        call = endpoint(transport).begin({}, training=True, trainable=True)
        weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
        if transport.rank == 0:
            send(
                call,
                STATE,
                (3 * weight, torch.tensor([4, 5]), torch.tensor([True, False])),
                call.anchor,
            )
            output = receive(call, RESULT, call.anchor)
        else:
            u, whole, true = receive(call, STATE, call.anchor)
            assert not whole.requires_grad
            assert not true.requires_grad
            output = torch.where(true, u * whole, u)
            send(call, RESULT, output, call.anchor)
        made = transport.rank == 1
        (result,) = shared_output(call, [output], (*call.tokens, call.anchor), made=made)
        sent = transport.sent_messages
        result.sum().backward()
        return weight.grad, transport.sent_messages - sent

    (gradient, none), (_, back) = all_of(2, work)
    assert gradient.tolist() == [12, 3]
    assert (none, back) == (0, 1)


def test_an_output_of_whole_numbers_wants_no_gradient() -> None:
    def work(transport: LocalTransport) -> Any:
        call = endpoint(transport).begin({}, training=True, trainable=True)
        call.settle()
        tensors = [torch.tensor([1, 2]), torch.ones(2)]
        whole, real = shared_output(call, tensors, (call.anchor,), made=True)
        return whole.requires_grad, real.requires_grad

    assert all_of(2, work) == [(False, True)] * 2


@pytest.mark.parametrize("size", [2, 3])
def test_the_gradient_of_the_output_counts_where_it_was_made(size: int) -> None:
    """All ranks take the loss of the same output; summed, it would count ``size`` times."""

    def work(transport: LocalTransport) -> Any:
        call = Endpoint(transport, []).begin({}, training=True, trainable=True)
        call.settle()
        weight = torch.ones(2, requires_grad=True)
        made = transport.rank == size - 1
        (result,) = shared_output(call, [2 * weight], (call.anchor,), made=made)
        result.sum().backward()
        return None if weight.grad is None else weight.grad.tolist()

    *others, last = all_of(size, work)
    assert last == [2, 2]
    assert all(other in (None, [0, 0]) for other in others)


def test_shares_are_summed_and_each_counts_where_it_is() -> None:
    def work(transport: LocalTransport) -> Any:
        call = Endpoint(transport, []).begin({}, training=True, trainable=True)
        call.settle()
        weight = torch.tensor(float(transport.rank + 1), requires_grad=True)
        output = torch.ones(1)
        shares = [weight.square()]
        _, total = shared_output(
            call, [output], (call.anchor,), made=transport.rank == 0, shares=shares
        )
        (3 * total).backward()
        return total.item(), weight.grad.item()

    assert all_of(3, work) == [(14, 6 * (rank + 1)) for rank in range(3)]


def test_an_input_gets_the_sum_of_all_ranks_gradients() -> None:
    def work(transport: LocalTransport) -> Any:
        call = Endpoint(transport, []).begin({}, training=True, trainable=True)
        call.settle()
        x = torch.ones(2, requires_grad=True)
        anchor, entered = Entry.apply(call, 1, call.anchor, x)
        share = ((transport.rank + 1) * entered).sum()
        _, total = shared_output(call, [torch.ones(1)], (anchor,), made=True, shares=[share])
        total.backward()
        return x.grad.tolist()

    assert all_of(3, work) == [[6, 6]] * 3


def test_infinite_adjoints_arrive_as_they_are() -> None:
    def work(transport: LocalTransport) -> Any:
        weights = Weights.drawn()
        output = on_endpoint(endpoint(transport), weights, batch())
        (math.inf * output).sum().backward()
        return weights.first.grad

    first, _ = all_of(2, work)
    assert not first.isfinite().any()
