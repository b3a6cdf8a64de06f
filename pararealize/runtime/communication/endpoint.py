"""Endpoint: the states that one rank sends and receives, and their adjoints on the way back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NoReturn, final

import torch
from torch import Tensor

from pararealize.errors import DisagreementError, ShapeError
from pararealize.runtime.communication.agreement import digest, signature
from pararealize.runtime.communication.backward_end import BackwardEnd
from pararealize.runtime.communication.tied_parameters import Ties
from pararealize.runtime.communication.transport import TOGETHER, Transport
from pararealize.runtime.monitoring.timeline import Recorder
from pararealize.runtime.values.form import Form, empty, flat, form_of
from pararealize.runtime.values.pytree import tensors_of

#: Tags: steps before they come round, messages between two ranks in a step, two directions.
STEPS, MESSAGES = 2**14, 2**11


@dataclass(frozen=True)
class Message:
    """One message of a schedule.

    ``index`` counts the messages between the two ranks; ``carries`` says whether its adjoint
    travels back (the network's output goes to every rank, and its gradient is known there).
    """

    value: str
    source: int
    target: int
    index: int
    carries: bool = True

    def __str__(self) -> str:
        return f"state {self.value} from rank {self.source} to rank {self.target}"


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
        network: int = 0,
    ) -> None:
        self.transport, self.network = transport, network
        self.incoming = [message for message in messages if message.target == transport.rank]
        self.forms: dict[tuple[int, Message], Form] = {}
        self.device = torch.device("cpu")
        self.recorder: Recorder | None = None
        self.ties = ties
        self.open: Call | None = None  # whose backward pass is under way
        self._epoch = transport.epoch

    def begin(
        self, inputs: Mapping[str, Any], *, training: bool, trainable: bool, jumps: bool = False
    ) -> Call:
        """A call begins: post the receives that are known, ask the others what they do.

        Raises:
            PeerError: a rank that failed before has ended, or this call is left out.

        """
        text = signature(inputs, training=training, jumps=jumps)
        devices = (tensor.device for tensor in tensors_of(dict(inputs)))
        self.device = next(devices, self.device)
        number = self.transport.step()
        if self.transport.epoch != self._epoch:
            self.renew()
        if self.ties is not None and torch.is_grad_enabled():
            self.ties.watch()
        return Call(self, number, text, trainable)

    def renew(self) -> None:
        """After a failure that the ranks have got over, forget what only some of them may know."""
        self._epoch = self.transport.epoch
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

    def __init__(self, endpoint: Endpoint, number: int, text: str, trainable: bool) -> None:
        self.endpoint, self.number, self.text = endpoint, number, text
        self.transport = endpoint.transport
        self.key = digest(f"{endpoint.network} {text}")
        self.recording = torch.is_grad_enabled()
        self.anchor = torch.zeros((), requires_grad=self.recording)
        self._tokens: dict[Message | None, list[Tensor]] = {}
        self._sent: dict[Message, Form] = {}
        self._adjoints: dict[Message, Incoming] = {}
        self._trainable: list[bool] = [trainable]
        self._answer: Callable[[], list[list[int]]] | None = None
        if self.transport.size > 1:
            self.transport.doing = f"calls network {endpoint.network} with {text}"
            self._answer = self.transport.begin_gather([self.key, int(trainable), number])
            self.transport.doing = TOGETHER
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

    def _tag(self, message: Message, *, back: bool = False) -> int:
        return 2 * (self.number % STEPS * MESSAGES + 1 + message.index % (MESSAGES - 1)) + back

    def _tie_tag(self) -> int:
        return 2 * (self.number % STEPS * MESSAGES)

    def _post(self, form: Form, message: Message, *, back: bool = False) -> Incoming:
        peer, tag = (message.target if back else message.source), self._tag(message, back=back)
        leaves = [leaf for leaf in form.tensors if leaf.differentiable or not back]
        tensors = tuple(empty(leaf, self.endpoint.device) for leaf in leaves)
        pairs = zip(tensors, leaves, strict=True)
        waits = [self.transport.receive(flat(t, leaf), peer, tag) for t, leaf in pairs]

        def wait() -> tuple[Tensor, ...]:
            self.transport.task = message if not back else self.transport.position
            for each in waits:
                each()
            return tensors

        return wait

    def settle(self) -> None:
        """Wait until all ranks are seen to do the same.

        Raises:
            DisagreementError: they do not; names what each of them was called with.

        """
        if self._answer is None:
            return
        self.transport.task = "the others to begin this call"
        answer, self._answer = self._answer, None
        rows = answer()
        self._trainable = [bool(trainable) for _, trainable, _ in rows]
        if len({(key, number) for key, _, number in rows}) > 1:
            self._disagree()

    def _disagree(self) -> NoReturn:
        mine = {"call": self.number, "network": self.endpoint.network}
        found = self.transport.gather((mine, self.text))
        other = [name for name in mine if len({names[name] for names, _ in found}) > 1]
        rows = [
            ", ".join([*(f"{name} {names[name]}" for name in other), text]) for names, text in found
        ]
        words = "; ".join(f"rank {rank}: {row}" for rank, row in enumerate(rows))
        text = (
            f"ranks were called with different inputs or in different modes ({words}): call the "
            "network on every rank with the same batch."
        )
        if "network" in other:
            text += " Networks are counted as they are compiled, and called in one order."
        self.transport.give_up(text)
        raise DisagreementError(text)

    def learns(self, upto: int | None = None) -> bool:
        """Whether anything on the ranks up to ``upto`` (by default, on any) wants a gradient."""
        last = self.transport.size if upto is None else upto + 1
        return self.recording and (
            "requiring a gradient" in self.text or any(self._trainable[:last])
        )

    def send(self, message: Message, value: Any) -> tuple[Form, tuple[Tensor, ...]]:
        """Send a state; its form goes with it where the other end cannot know it."""
        self.settle()
        form, tensors = form_of(value)
        known = self.endpoint.forms.get((self.key, message))
        if known is None or not known.plain:
            self.transport.send_object(form, message.target, self._tag(message))
            self.endpoint.forms[self.key, message] = known = form
        self._check(message, form, known)
        for tensor, leaf in zip(tensors, known.tensors, strict=True):
            self.transport.send(flat(tensor, leaf), message.target, self._tag(message))
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
            form = self.transport.receive_object(message.source, self._tag(message))
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
        """Let what made a token run backward with the output."""
        self._tokens.setdefault(None, []).append(token)

    @property
    def tokens(self) -> list[Tensor]:
        """What has to run backward with the output."""
        own = self._tokens.get(None, [])
        return [*own, *(token for key, found in self._tokens.items() if key for token in found)]

    def end(self) -> None:
        """The output has been made: what runs backward holds the call, and is not held by it."""
        self._tokens.clear()

    def begin_backward(self) -> None:
        """Post the receives of all adjoints; from here on a failure leaves others waiting."""
        endpoint, engine = self.endpoint, torch.autograd.Variable._execution_engine
        endpoint.open = self
        if endpoint.ties is not None:
            engine.queue_callback(partial(endpoint.ties.sum, self._tie_tag()))
        engine.queue_callback(BackwardEnd(endpoint.closed, endpoint.stopped))
        if self.transport.early:
            sent = self._sent.items()
            self._adjoints = {
                message: self._post(form, message, back=True) for message, form in sent
            }

    def take_adjoint(self, message: Message, form: Form) -> list[Tensor | None]:
        """Wait for the adjoint of a state that was sent, one tensor for each of its leaves."""
        self.endpoint.reach(f"adjoint of {message.value} ← {message.target}", "recv")
        posted = self._adjoints.pop(message, None) or self._post(form, message, back=True)
        found = iter(posted())
        return [next(found) if leaf.differentiable else None for leaf in form.tensors]

    def send_adjoint(self, message: Message, form: Form, adjoints: Sequence[Tensor]) -> None:
        """Send the adjoint of a state back to where it came from."""
        self.endpoint.reach(f"adjoint of {message.value} → {message.source}", "send")
        for adjoint, leaf in zip(adjoints, form.tensors, strict=True):
            if leaf.differentiable:
                tag = self._tag(message, back=True)
                self.transport.send(flat(adjoint, leaf), message.source, tag)
