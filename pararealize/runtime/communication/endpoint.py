"""Endpoint: the states that one rank sends and receives, and their adjoints on the way back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor

from pararealize.errors import DisagreementError, ShapeError
from pararealize.runtime.communication.agreement import digest, signature
from pararealize.runtime.communication.backward import agree_on_backward
from pararealize.runtime.communication.backward_end import BackwardEnd
from pararealize.runtime.communication.fingerprint import check_same_batch, fingerprint, is_compared
from pararealize.runtime.communication.message import Message, tie_tag
from pararealize.runtime.communication.occasions import CALLS, agree, begin
from pararealize.runtime.communication.overflow import Overflow
from pararealize.runtime.communication.tied_parameters import Ties
from pararealize.runtime.communication.transport import Transport
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.values.form import Form, empty, flat, form_of
from pararealize.runtime.values.pytree import tensors_of

#: What a rank says of itself as a call begins: it has weights to train; some numbers are float16.
LEARNS, HALF = 1, 2

#: What is equal in all states of a form; the order of numbers in memory need not be.
LOOKS = attrgetter("shape", "dtype")

#: Tensors on their way here: waits for them.
Incoming = Callable[[], tuple[Tensor, ...]]


@final
class Endpoint:
    """Agreement at the start of a call, then messages of known shape, from or to this rank."""

    def __init__(
        self,
        transport: Transport,
        messages: Sequence[Message],
        ties: Ties | None = None,
        overflow: Overflow | None = None,
        network: int = 0,
    ) -> None:
        self.transport, self.network = transport, network
        self.incoming = [message for message in messages if message.target == transport.rank]
        self.forms: dict[tuple[int, Message], Form] = {}
        self.device = torch.device("cpu")
        self.recorder: Recorder | None = None
        self.ties, self.overflow = ties, overflow
        self.agreed = 0  # calls that all ranks were seen to make
        self.open: Call | None = None  # whose backward pass is under way
        self._epoch = transport.epoch

    def begin(
        self,
        inputs: Mapping[str, Any],
        *,
        training: bool,
        trainable: bool,
        jumps: bool = False,
        half: bool = False,
    ) -> Call:
        """A call begins: post the receives that are known, ask the others what they do.

        Raises:
            PeerError: a rank that failed before has ended, or this call is left out.

        """
        text = signature(inputs, training=training, jumps=jumps)
        tensors = tensors_of(dict(inputs))
        self.device = next((tensor.device for tensor in tensors), self.device)
        number = self.transport.step()
        if self.transport.epoch != self._epoch:
            self.renew()
        if self.ties is not None and torch.is_grad_enabled():
            self.ties.watch()
        flags = LEARNS * trainable + HALF * half
        given = [tensor for tensor in tensors if not tensor.requires_grad]
        found = fingerprint(given) if is_compared(self.agreed + 1) else 0
        return Call(self, number, text, flags, found)

    def renew(self) -> None:
        """After a failure that the ranks have got over, forget what only some of them may know."""
        self._epoch, self.agreed = self.transport.epoch, 0
        self.forms.clear()

    def closed(self) -> None:
        """The backward pass has come to its end."""
        self.open = None
        self.reach("", "")

    def stopped(self) -> None:
        """The backward pass has ended before it was over: somebody raised in it."""
        where, self.open = self.transport.position, None
        who = f"rank {self.transport.rank} of {self.transport.size}"
        place = f"the backward pass of {where}" if where else "the backward pass"
        self.transport.fail(f"{who} stopped in {place}; its own message says why.")

    def reach(self, place: str, kind: str) -> None:
        """The backward pass has come to ``place``."""
        self.transport.position = place
        if self.recorder is not None:
            self.recorder.mark(place, kind)


@final
class Call:
    """One call of the network on one rank, and its backward pass."""

    def __init__(
        self, endpoint: Endpoint, number: int, text: str, flags: int, fingerprint: int
    ) -> None:
        self.endpoint, self.number, self.text = endpoint, number, text
        self.transport = endpoint.transport
        self.key = digest(text)
        self.recording = torch.is_grad_enabled()
        self.anchor = torch.zeros((), requires_grad=self.recording)
        self._tokens: dict[Message | None, list[Tensor]] = {}
        self._sent: dict[Message, Form] = {}
        self._adjoints: dict[Message, Incoming] = {}
        self._flags, self.fingerprint = [flags], fingerprint
        self._answer: Callable[[], list[tuple[int, int]]] | None = None
        if self.transport.size > 1:
            numbers = {"call": number, "network": endpoint.network}
            self._answer = begin(self.transport, f"{CALLS}{text}", flags, fingerprint, numbers)
        self._posted: dict[Message, Incoming] = {}
        self.post(endpoint.incoming)

    def post(self, messages: Iterable[Message]) -> None:
        """Post the receives of messages that are sure to come, where their form is known."""
        self._posted |= {
            message: self._post(self.endpoint.forms[self.key, message], message)
            for message in messages
            if (self.key, message) in self.endpoint.forms and self.transport.early
            if self.endpoint.forms[self.key, message].plain
        }

    def _post(self, form: Form, message: Message, *, order: int = 0) -> Incoming:
        (peer, _), tag = message.ends(order), message.tag(self.number, order)
        leaves = [leaf for leaf in form.tensors if leaf.differentiable or not order]
        tensors = tuple(empty(leaf, self.endpoint.device) for leaf in leaves)
        pairs = zip(tensors, leaves, strict=True)
        waits = [self.transport.receive(flat(t, leaf), peer, tag) for t, leaf in pairs]

        def wait() -> tuple[Tensor, ...]:
            self.transport.task = self.transport.position if order else message
            for each in waits:
                each()
            return tensors

        return wait

    def settle(self) -> None:
        """Wait until all ranks are seen to do the same.

        Raises:
            DisagreementError: they do not; names what each of them was called with, or does.

        """
        if self._answer is None:
            return
        answer, self._answer = self._answer, None
        rows = answer()
        self._flags = [flags for flags, _ in rows]
        self.endpoint.agreed += 1
        try:
            check_same_batch([found for _, found in rows])
        except DisagreementError as error:  # all ranks have found it
            self.transport.give_up(str(error))
            raise

    def learns(self, upto: int | None = None) -> bool:
        """Whether anything on the ranks up to ``upto`` (by default, on any) wants a gradient."""
        last = self.transport.size if upto is None else upto + 1
        return self.recording and (
            "requiring a gradient" in self.text or any(f & LEARNS for f in self._flags[:last])
        )

    def send(self, message: Message, value: Any) -> tuple[Form, tuple[Tensor, ...]]:
        """Send a state; its form goes with it where the other end cannot know it."""
        self.settle()
        form, tensors = form_of(value)
        known = self.endpoint.forms.get((self.key, message))
        if known is None or not known.plain:
            self.transport.send_object(form, message.target, message.tag(self.number))
            self.endpoint.forms[self.key, message] = known = form
        self._check(message, form, known)
        for tensor, leaf in zip(tensors, known.tensors, strict=True):
            self.transport.send(flat(tensor, leaf), message.target, message.tag(self.number))
        return known, tensors

    def _check(self, message: Message, form: Form, known: Form) -> None:
        if list(map(LOOKS, form.tensors)) != list(map(LOOKS, known.tensors)):
            raise ShapeError(
                f"the state {message.value} was {', '.join(map(str, known.tensors))} in an earlier "
                f"call with inputs of the same shape and is {', '.join(map(str, form.tensors))} "
                "now: shapes that depend on data cannot cross ranks; cut elsewhere (interfaces=)."
            )

    def expect(self, message: Message) -> Form:
        """The form of the state that is to come, once it is known."""
        self.settle()
        form = self.endpoint.forms.get((self.key, message))
        if form is None or not form.plain:
            form = self.transport.receive_object(message.source, message.tag(self.number))
            self.endpoint.forms[self.key, message] = form
        return form

    def take(self, message: Message) -> tuple[Tensor, ...]:
        """Wait for the tensors of a state, whose form has been waited for."""
        posted = self._posted.pop(message, None)
        form = self.endpoint.forms[self.key, message]
        return (posted or self._post(form, message))()

    def left(self, message: Message, form: Form, token: Tensor) -> None:
        """Remember that the adjoint of a state that was sent will come back, through its token."""
        self._sent[message] = form
        self._tokens[message] = [token]

    def only_answers(self, messages: Collection[Message]) -> None:
        """The adjoints of these messages alone come back: the output depends on no other."""
        self._sent = {message: sent for message, sent in self._sent.items() if message in messages}
        kept = {None, *messages}
        self._tokens = {key: tokens for key, tokens in self._tokens.items() if key in kept}

    def keep_token(self, token: Tensor) -> None:
        """Let what made a token run backward with the output, or what a backward pass finds."""
        self._tokens.setdefault(None, []).append(token)

    @property
    def tokens(self) -> list[Tensor]:
        """What has to run backward with the output."""
        own = self._tokens.get(None, [])
        return [*own, *(token for key, found in self._tokens.items() if key for token in found)]

    def end(self) -> None:
        """The output has been made: what runs backward holds the call, and is not held by it."""
        self._tokens.clear()

    def collected(self) -> list[Tensor]:
        """The tokens so far, which go on with the gradients that a backward pass ends with."""
        tokens = self.tokens
        self.end()
        return tokens

    def begin_backward(self, gradients: Sequence[Tensor] = ()) -> None:
        """Post the receives of all adjoints, once all ranks have come to this backward pass.

        From here on a failure leaves others waiting. ``gradients`` are those of the output.
        """
        endpoint, engine = self.endpoint, torch.autograd.Variable._execution_engine
        tied = {} if endpoint.ties is None else endpoint.ties.copies
        everything, compared = True, gradients if self.fingerprint else ()
        if self.transport.size > 1:
            everything = agree_on_backward(self.transport, self.number, self.anchor, tied, compared)
        if endpoint.ties is not None and everything:
            engine.queue_callback(partial(endpoint.ties.sum, tie_tag(self.number)))
        if endpoint.overflow is not None and any(flags & HALF for flags in self._flags):
            engine.queue_callback(endpoint.overflow.spread)
        self._open()
        if self.transport.early:
            self._adjoints = {m: self._post(form, m, order=1) for m, form in self._sent.items()}

    def begin_derivative(self) -> None:
        """The gradients of a backward pass are differentiated, by all ranks."""
        agree(self.transport, f"differentiates the backward pass of call {self.number}")
        self._open()

    def _open(self) -> None:
        self.endpoint.open = self
        end = BackwardEnd(self.endpoint.closed, self._stopped)
        torch.autograd.Variable._execution_engine.queue_callback(end)

    def _stopped(self) -> None:
        self.end()
        self.endpoint.stopped()

    def take_adjoint(self, message: Message, form: Form, order: int = 1) -> list[Tensor | None]:
        """Wait for the adjoint of a state that was sent, one tensor for each of its leaves."""
        peer, _ = message.ends(order)
        self.endpoint.reach(f"adjoint of {message.value} ← {peer}", "recv")
        posted = self._adjoints.pop(message, None) if order == 1 else None
        posted = posted or self._post(form, message, order=order)
        found = iter(posted())
        return [next(found) if leaf.differentiable else None for leaf in form.tensors]

    def send_adjoint(
        self, message: Message, form: Form, adjoints: Sequence[Tensor], order: int = 1
    ) -> None:
        """Send the adjoint of a state back to where it came from."""
        (_, peer), tag = message.ends(order), message.tag(self.number, order)
        self.endpoint.reach(f"adjoint of {message.value} → {peer}", "send")
        for adjoint, leaf in zip(adjoints, form.tensors, strict=True):
            if leaf.differentiable:
                self.transport.send(flat(adjoint, leaf), peer, tag)
