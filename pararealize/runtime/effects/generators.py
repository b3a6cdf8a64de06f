"""Generators: where random numbers come from, their states, and which of them a piece has moved."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.runtime.effects.functions import PLAIN
from pararealize.runtime.effects.statistics import is_torchs
from pararealize.runtime.values.pytree import tensors_of

#: A generator: a device's, by the device; Python's or NumPy's own, by name; or an object.
Generator = Any
#: States of several generators.
States = list[tuple[Generator, Any]]

PYTHON, NUMPY = "Python's random", "NumPy's random"


def device_states(values: Any) -> States:
    """States of the generators of the CPU, and of the devices of the values."""
    devices = {tensor.device for tensor in tensors_of(values)}
    devices.add(torch.device("cpu"))
    return [(device, state_of(device)) for device in sorted(devices, key=str)]


def other_generators(modules: Iterable[nn.Module]) -> tuple[Generator, ...]:
    """Generators that the forward code of modules from outside torch may draw from.

    Python's and NumPy's, and those which the modules, or their code as globals, hold.
    """
    foreign = [module for module in modules if not is_torchs(module)]
    if not foreign:
        return ()
    own = {id(found): found for module in foreign for found in _held(module)}
    return (PYTHON, NUMPY, *own.values())


def _held(module: nn.Module) -> Iterator[Generator]:
    for value in vars(module).values():
        if type(value) in PLAIN:
            continue
        owner = getattr(value, "__self__", None) if callable(value) else value  # of rng.random
        if _is_generator(owner) and owner not in global_generators():
            yield owner
    # Looked up like this, as a scripted module raises where its class is asked for its forward.
    function = inspect.getattr_static(type(module), "forward", None)
    forward, scope = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    for name in () if forward is None else forward.co_names:
        if _is_generator(scope.get(name)):
            yield scope[name]


def global_generators() -> tuple[Any, ...]:
    """The objects behind Python's and NumPy's own functions, ``random.random`` and such."""
    numpy = sys.modules.get("numpy")
    own = (random.random, *(() if numpy is None else (numpy.random.get_state,)))
    return tuple(function.__self__ for function in own)


def _is_generator(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    kinds: tuple[type, ...] = (random.Random, torch.Generator)
    if numpy is not None:
        kinds = (*kinds, numpy.random.Generator, numpy.random.RandomState)
    return isinstance(value, kinds)


@contextmanager
def kept(generators: Iterable[Generator] = (PYTHON, NUMPY)) -> Iterator[None]:
    """A block at whose end the CPU's and these generators are put back where they were."""
    before = [(each, state_of(each)) for each in (torch.device("cpu"), *generators)]
    try:
        yield
    finally:
        for generator, state in before:
            put_back(generator, state)


def begin_alike() -> None:
    """Let the CPU's, Python's and NumPy's numbers begin as in every process that calls this."""
    torch.default_generator.manual_seed(0)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


def holds_generator(module: nn.Module) -> bool:
    """Whether a module has a generator of its own among its attributes."""
    return not is_torchs(module) and any(map(_is_generator, vars(module).values()))


def state_of(generator: Generator) -> Any:
    """The state of a generator, as an object of its own; ``None`` of NumPy's before it is used."""
    owner = _owner(generator)
    if owner is None:
        return None
    if isinstance(generator, torch.device) and generator.type != "cpu":
        return owner.get_rng_state(generator)
    names = ("get_rng_state", "getstate", "get_state")
    read = next((getattr(owner, name) for name in names if hasattr(owner, name)), None)
    return owner.bit_generator.state if read is None else read()


def put_back(generator: Generator, state: Any) -> None:
    """Set a generator to a state."""
    owner = _owner(generator)
    if state is None:
        return
    if isinstance(generator, torch.device) and generator.type != "cpu":
        owner.set_rng_state(state, generator)
        return
    names = ("set_rng_state", "setstate", "set_state")
    write = next((getattr(owner, name) for name in names if hasattr(owner, name)), None)
    if write is None:
        owner.bit_generator.state = state
    else:
        write(state)


def _owner(generator: Generator) -> Any:
    """What has the functions that read and set a generator's state."""
    if isinstance(generator, torch.device):
        return torch if generator.type == "cpu" else torch.get_device_module(generator)
    if generator == NUMPY:
        numpy = sys.modules.get("numpy")
        return None if numpy is None else numpy.random
    return random if generator == PYTHON else generator


def is_same(one: Any, other: Any) -> bool:
    """Whether two states of one generator are equal."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and any(hasattr(each, "tobytes") for each in one):
        return len(one) == len(other) and all(map(is_same, one, other))
    if hasattr(one, "tobytes"):  # an array
        return bool(one.tobytes() == other.tobytes())
    return bool(one == other)
