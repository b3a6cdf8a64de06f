"""Shapes: those of inputs that were not given, where a network branches on them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from pararealize.cost.inputs import fits, likely_inputs
from pararealize.decide.request import Request
from pararealize.errors import TraceError
from pararealize.tracing.blocks import trace_network
from pararealize.tracing.recorder import UntraceableError
from pararealize.tracing.trace import Trace


def traced_by_shapes(model: nn.Module, request: Request) -> tuple[Request, Trace]:
    """The programs, and the request with the shapes of inputs where those had to decide branches.

    Raises:
        TraceError: the network cannot be traced.

    """
    try:
        traced = trace_network(model, request.tracing, request.given)
        if request.given is not None or not traced.undecided:
            return request, traced
    except TraceError as error:
        cause = error.__cause__
        wanted = isinstance(cause, UntraceableError) and cause.shapes
        if request.given is not None or not wanted:
            raise
        found = _with_likely_inputs(model, request)
        if found is None:
            raise
        return found
    found = _with_likely_inputs(model, request)
    return (request, traced) if found is None else found


def _with_likely_inputs(model: nn.Module, request: Request) -> tuple[Request, Trace] | None:
    """The first candidate for the one input with which all fits."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    for spec in likely_inputs(model) if len(names) == 1 else ():
        given: Mapping[str, Any] = {names[0]: spec}
        try:
            traced = trace_network(model, request.tracing, given)
        except TraceError:
            continue
        if fits(traced.train, model, given, request.machine):
            return replace(request, given=given), traced
    return None
