"""Models by name: a Python file, a module, or a model of a zoo."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pararealize.cli.zoos import zoo_model
from pararealize.errors import ModelSpecError

FORMS = (
    "path/to/file.py:factory, package.module:factory, torchvision:NAME or timm:NAME (with :DEFAULT "
    "for trained weights), or transformers:FOLDER, for example pararealize.models:resnet56"
)


def load_model(spec: str) -> nn.Module:
    """The network that ``spec`` names; a factory is called without arguments.

    Raises:
        ModelSpecError: the file, module, factory or model does not exist, or gives no module.
    """
    known = zoo_model(spec)
    if known is not None:
        return known
    model = load_object(spec)
    if not isinstance(model, nn.Module):
        raise ModelSpecError(
            f"{spec} gave a {type(model).__name__}, and a torch.nn.Module was expected: name a "
            "function without arguments that returns one."
        )
    return model


def load_object(spec: str, what: str = "model", forms: str = FORMS) -> Any:
    """What ``module:name`` or ``file.py:name`` is, or returns when called without arguments.

    Raises:
        ModelSpecError: the file, module or name does not exist, or cannot be called so; the text
            says ``what`` was to be named, and in which ``forms``.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ModelSpecError(f"{spec!r} names no {what}: write {forms}.")
    factory = getattr(_module(place, forms), name, None)
    if factory is None:
        raise ModelSpecError(f"{place} has no {name!r}: write {forms}.")
    return factory if isinstance(factory, nn.Module) else _call(spec, factory)


def _call(spec: str, factory: Any) -> Any:
    if not callable(factory):
        return factory
    try:
        with suppress(ValueError):  # functions written in C may have no signature
            inspect.signature(factory).bind()
    except TypeError as error:
        raise ModelSpecError(
            f"{spec} cannot be called without arguments ({error}): name a function that can."
        ) from error
    with _running(f"{spec}, when it was called,"):
        return factory()


@contextmanager
def _running(what: str) -> Iterator[None]:
    """A block that runs a user's code, which may raise anything, or end the process.

    Raises:
        ModelSpecError: it does.

    """
    try:
        yield
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:300]
        ends = f"would end this program (exit {text})" if isinstance(error, SystemExit) else ""
        raised = f"raised {type(error).__name__}{f': {text}' if text else ''}"
        raise ModelSpecError(
            f"{what} {ends or raised}: mend it, or name another; --debug shows where."
        ) from error


def _module(place: str, forms: str) -> ModuleType:
    if place.endswith(".py"):
        return _from_file(Path(place), forms)
    if not all(map(str.isidentifier, place.split("."))):
        raise ModelSpecError(f"{place!r} is the name of no module: write {forms}.")
    with _running(f"the module {place}, when it was imported,"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise  # the module is there, and imports another that is not
            missing = error
    raise ModelSpecError(f"no module {place!r} ({missing}): write {forms}.") from missing


def _from_file(path: Path, forms: str) -> ModuleType:
    if "\0" in str(path) or not os.path.isfile(path):
        raise ModelSpecError(f"no file {path}: write {forms}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelSpecError(f"{path} is no Python file: write {forms}.")
    module = importlib.util.module_from_spec(spec)
    with _running(f"{path}, when it was run,"):
        spec.loader.exec_module(module)
    return module
