"""Rehearsal: whether a forward does with tensors what it did while it was traced.

A trace runs a forward on proxies, and code that asks what they are may take another way than with
tensors: ``isinstance``, ``type``, ``hasattr``, a ``try`` around ``float``, a dtype as a key. So the
forward runs once more, on tensors without numbers, and every function of torch that it calls is
held against the next one that the trace recorded:

    trace      Entered(a)  linear(%x, w)  Left(a)  add(%x, %linear)  ...
    rehearsal  Entered(a)  linear( x, w)  Left(a)  add( x,  linear)  ...

The innermost module that is being run at the first difference decides by what a value *is*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from types import FunctionType
from typing import Any, final
from unittest import mock

import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace
from torch.utils._pytree import tree_map_only

from pararealize.runtime.effects.generators import kept
from pararealize.tracing import checkpoints
from pararealize.tracing.composites import unrolled
from pararealize.tracing.draft import Draft, Entered, Event, Left, Recorded
from pararealize.tracing.functions import applied_whole
from pararealize.tracing.hooks import held, hooks_are_heard
from pararealize.tracing.instances import scopes_of
from pararealize.tracing.kept_functions import functions_kept
from pararealize.tracing.names_bound import names_bound
from pararealize.tracing.naming import (
    ATOMS,
    arguments,
    describe,
    is_commutative,
    is_same_function,
    operands,
    with_defaults,
)
from pararealize.tracing.recorder import is_whole
from pararealize.tracing.script import Script
from pararealize.tracing.shapes import NumbersWantedError, ShapesOnly, form_of_layer, leaves_in
from pararealize.tracing.stand_ins import data_kept, numbers, spread

#: How a forward may refuse what it is given, which the pass that finds shapes explains.
REFUSALS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class DifferentWayError(BaseException):
    """A forward does something else with tensors; ``except Exception`` in it lets this pass."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def rehearse(
    model: nn.Module, draft: Draft, given: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """The module that takes another way than it did while it was traced, and why; or nothing.

    And names of constants of the trace that stand for values of it, with the names of these: what
    a hook left in a container, as the trace found it there from an earlier call. Nothing is
    computed: weights, statistics and random numbers stay as they are.
    """
    run = _Run(model, draft, {name: spread(value) for name, value in given.items()})
    try:
        with data_kept(model):
            run()
    except DifferentWayError as error:
        return {error.path: error.reason}, {}
    except (NumbersWantedError, AssertionError, NotImplementedError, *REFUSALS):
        # Either the network cannot take these inputs, which its profile explains, or shapes alone
        # do not tell what it does; the comparison of numbers does.
        return {}, run.script.left_behind
    finally:
        run.script.values.clear()
        run.shapes.release()
    return {}, run.script.left_behind


@final
class _Run:
    """One run of a forward, held against the events of a draft."""

    def __init__(self, model: nn.Module, draft: Draft, given: Mapping[str, Any]) -> None:
        self.model, self.draft = model, draft
        self.given = {**draft.constants, **given}
        self.paths = {module: path for path, module in model.named_modules()}
        self.quiet, self.held = 0, held(model)
        self.layers: dict[Any, Tensor] = {}
        self.open = [""]
        tensors = (value for value in leaves_in(given) if isinstance(value, Tensor))
        known = (*model.parameters(), *model.buffers(), *tensors)
        self.shapes = ShapesOnly(known, self._seen)
        self.script = Script(model, draft, self.shapes, self.given)

    def __call__(self) -> None:
        """Run the forward.

        Raises:
            DifferentWayError: it does something else than the draft says.

        """
        args, kwargs = arguments(self.model, self.given)
        with kept(), self._watching(), self.shapes:
            result = type(self.model).forward(self.model, *args, **kwargs)
            event = self.script.next()
            self._expect(_is(event, "output"), "returns", event)
            same = self._agree(self.script.mapped(event.args[0]), result)  # type: ignore[union-attr]
            self._expect(same, "returns other values", event)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """See calls of modules, and of the functions that a trace keeps whole."""
        call, run = nn.Module.__call__, self

        def plain(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            heard = hooks_are_heard(module, run.held)
            return call(module, *args, **kwargs) if heard else module.forward(*args, **kwargs)

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = run.paths.get(module)
            if path is None or run.quiet:
                return plain(module, *args, **kwargs)
            return run._call(module, path, args, kwargs, plain)

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(nn.Module, "__call__", called))
            stack.enter_context(mock.patch.object(Tensor, "__iter__", self._rows))
            for (_, name), scope in list(_symbolic_trace._wrapped_fns_to_patch.items()):
                if callable(scope.get(name)):
                    whole = {name: self._kept_whole(scope[name])}
                    stack.enter_context(names_bound(scope, whole))
            stack.enter_context(checkpoints.seen(lambda _: nullcontext()))
            stack.enter_context(applied_whole(self._applied))
            kept = functions_kept(scopes_of(self.model), self._library, self.shapes.knows)
            stack.enter_context(kept)
            yield

    @property
    def _rows(self) -> Callable[[Tensor], Iterator[Tensor]]:
        def rows(tensor: Tensor) -> Iterator[Tensor]:
            return (tensor[i] for i in range(tensor.shape[0]))

        return rows

    def _kept_whole(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def kept(*args: Any, **kwargs: Any) -> Any:
            return self._applied(function, args, kwargs)

        return kept

    def _applied(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.quiet or not self.shapes.knows((args, kwargs)):
            return function(*args, **kwargs)
        with self._quietly():
            result = function(*args, **kwargs)
        self._seen(function, args, kwargs, result)
        return result

    def _library(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a library's function gives; of distributions, which look at numbers, nothing."""
        if isinstance(function, type) and not self.quiet:
            raise NumbersWantedError(f"{function.__name__} looks at its parameters")
        return self._applied(function, args, kwargs)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1

    def _call(self, module: nn.Module, path: str, args: Any, kwargs: Any, call: Any) -> Any:
        whole = self.draft.whole
        inside = unrolled(module, args, kwargs) if path not in whole else None
        if inside is None and is_whole(module, path, whole):
            event = self.script.next()
            with torch._C.DisableTorchFunction():
                both = self._both(event, args, kwargs) if _is(event, "call_module", path) else None
                same = both is not None and self._agree(*both)
            self._expect(same, f"calls {path}", event)
            assert isinstance(event, Recorded)
            result = self._call_whole(module, args, kwargs, call)
            self.script.give(event.node, result)
            return result
        self._pass(Entered(path))
        self.open.append(path)
        try:
            forward = inside or partial(call, module)
            result = forward(*args, **kwargs)
        except Exception:
            if self.script.next() == Left(path):  # so it did while it was traced
                self.script.position += 1
                self.open.pop()
            raise
        self._pass(Left(path))
        self.open.pop()
        return result

    def _call_whole(self, module: nn.Module, args: Any, kwargs: Any, call: Any) -> Any:
        """A module that is not looked into, by shapes if these tell what it gives."""
        with torch._C.DisableTorchFunction():
            key = form_of_layer(module, args, kwargs)
            if key in self.layers:
                return self.shapes.empty_like(self.layers[key], args[0].device)
        with self._quietly():
            try:
                result = call(module, *args, **kwargs)
            except (NumbersWantedError, NotImplementedError, RuntimeError):
                return self._computed(module, args, kwargs, call)
            if key is not None and type(result) is Tensor and result is not args[0]:
                self.layers[key] = self.shapes.twins[id(result)]
            return result

    def _computed(self, module: nn.Module, args: Any, kwargs: Any, call: Any) -> Any:
        """What a module gives that asks for numbers: of some."""
        known = partial(tree_map_only, Tensor, partial(numbers, self.shapes))
        with torch._C.DisableTorchFunction(), torch.no_grad():
            result = call(module, *known(args), **known(kwargs))
            for tensor in leaves_in(result):
                if isinstance(tensor, Tensor):
                    self.shapes.know(tensor, tensor.detach().to("meta"))
            return result

    def _pass(self, wanted: Event) -> None:
        event = self.script.next()
        verb = "enters" if isinstance(wanted, Entered) else "leaves"
        self._expect(event == wanted, f"{verb} {getattr(wanted, 'path', '')}", event)
        self.script.position += 1

    def _seen(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """A function of torch was called; the draft must say so too."""
        if self.quiet or getattr(function, "__name__", "") == "__hash__":
            return
        event = self.script.next()
        same = isinstance(event, Recorded) and is_same_function(event.op, event.target, function)
        if not same and getattr(function, "__name__", "") == "__len__":
            return  # which the trace has been told, and looks at again in every call
        if same:
            self.script.look_behind(event, leaves_in((args, kwargs)))
            theirs, own = self._both(event, *operands(function, args, kwargs))
            same = self._agree(theirs, own)
            if not same and is_commutative(function):
                same = self._agree(theirs, own[::-1])
            if not same and isinstance(function, FunctionType):  # which passes its defaults on
                same = self._agree_by_default(function, event, args, kwargs)
        self._expect(same, f"calls {getattr(function, '__name__', function)}", event)
        self.script.give(event.node, result)  # type: ignore[union-attr]

    def _expect(self, same: bool, does: str, event: Event | None) -> None:
        if not same:
            traced = describe(event)
            traced += " with other arguments" if traced.partition(" ")[2] in does else ""
            raise DifferentWayError(
                self.open[-1],
                f": it {does}, and while it was traced it {traced}; it decides by what its values "
                "are, and those of a trace are no tensors, or reads what another has left behind",
            )

    def _both(self, event: Any, args: Any, kwargs: Any) -> tuple[list[Any], list[Any]]:
        mapped = self.script.mapped((event.args, dict(event.kwargs)))
        return leaves_in(mapped), leaves_in((args, dict(kwargs)))

    def _agree_by_default(self, function: FunctionType, event: Any, args: Any, kwargs: Any) -> bool:
        given = self.script.mapped((event.args, dict(event.kwargs)))
        theirs, own = (with_defaults(function, *each) for each in (given, (args, kwargs)))
        return self._agree(theirs, own)

    def _agree(self, theirs: Any, own: Any) -> bool:
        """Whether a draft's values are those at hand."""
        one, other = leaves_in(theirs), leaves_in(own)
        return len(one) == len(other) and all(map(self._is_same, one, other))

    def _is_same(self, one: Any, other: Any) -> bool:
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            known = self.shapes.twins.keys() & {id(one), id(other)}
            alike = (one.shape, one.dtype) == (other.shape, other.dtype)
            return one is other or (not known and alike)
        plain = isinstance(one, ATOMS) and isinstance(other, ATOMS)
        mixed = isinstance(one, Tensor) or isinstance(other, Tensor)
        if plain:
            return one is other or bool(one == other) or (one != one and other != other)  # noqa: PLR0124
        return one is other or not mixed


def _is(event: Event | None, op: str, target: str | None = None) -> bool:
    found = isinstance(event, Recorded) and event.op == op
    return found and (target is None or event.target == target)  # type: ignore[union-attr]
