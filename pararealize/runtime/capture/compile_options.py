"""Compile options: how pieces of a captured network are compiled, by keywords of torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from pararealize.errors import MethodError
from pararealize.runtime.capture.device import Device

#: What can be asked for: nothing, the device's own way, a mode, or keywords of torch.compile.
Asked = bool | str | Mapping[str, Any] | None
#: Keywords that can be given.
KEYWORDS = frozenset({"backend", "mode", "options"})
#: What the options of inductor call CUDA graphs of its own.
GRAPHS = "triton.cudagraphs"


@final
@dataclass(frozen=True)
class CompileOptions:
    """A backend, by name or itself, and options of inductor.

    Attributes:
        backend: what makes code of a graph; ``name`` is what the user calls it.
        options: those of the backend.

    """

    name: object
    backend: str | Callable[..., Any]
    options: Mapping[str, Any]

    def compiled(self, function: Callable[..., Any], *, draws: bool) -> Callable[..., Any]:
        """The function, compiled as a whole when it is first called, for the shapes at hand.

        Where it ``draws`` random numbers, they are those of the layers and not of the compiler.
        """
        options = dict(self.options)
        if draws and self.name == "inductor":
            options["fallback_random"] = True
        return torch.compile(
            function,
            fullgraph=True,
            dynamic=False,
            backend=self.backend,
            options=options or None,
        )


def compile_options(asked: Asked, device: Device) -> CompileOptions | None:
    """What was asked for on a device; ``None`` where nothing is to be compiled.

    Raises:
        MethodError: it is no way to compile, or not one for pieces of a capture.

    """
    if asked is None or asked is False:
        return None
    given: Any = {"mode": asked} if isinstance(asked, str) else {} if asked is True else asked
    if not isinstance(given, Mapping):
        raise MethodError(
            f"capture: compile_pieces={asked!r} says not how: write compile_pieces=True, a mode as "
            'in compile_pieces="max-autotune-no-cudagraphs", or keywords of torch.compile, '
            'compile_pieces={"backend": "aot_eager"}.'
        )
    unknown = [repr(key) for key in given if key not in KEYWORDS]
    if unknown:
        raise MethodError(
            f"capture: compile_pieces has no {', '.join(unknown)}: pieces are compiled whole and "
            'for the shapes at hand; of the keywords of torch.compile give "backend", "mode" or '
            '"options".'
        )
    backend = given.get("backend", device.backend)
    _check_backend(backend, device)
    mode, options = given.get("mode"), dict(given.get("options") or {})
    if mode is not None:
        options = {**_mode(mode, backend), **options}
    if options.get(GRAPHS):
        raise MethodError(
            f"capture: compile_pieces with {_told(mode)} makes CUDA graphs of its own, of which "
            'none may begin while another is recorded: write "max-autotune-no-cudagraphs".'
        )
    return CompileOptions(backend, device.seen(backend), options)


def _told(mode: object) -> str:
    return f"mode {mode!r}" if mode is not None else f"option {GRAPHS!r}"


def _check_backend(backend: object, device: Device) -> None:
    """Raise where no such backend exists, or the device cannot record what it makes."""
    known = torch.compiler.list_backends(exclude_tags=())
    if not callable(backend) and backend not in known:
        raise MethodError(
            f"capture: compile_pieces names the backend {backend!r}, and torch.compile has only "
            f"{', '.join(sorted(known))}."
        )
    if backend == "cudagraphs":
        raise MethodError(
            'capture: the backend "cudagraphs" makes graphs of its own, and pieces become part of '
            "one: leave the backend out."
        )
    if not device.records(backend):
        raise MethodError(
            f"capture: what the backend {backend!r} makes cannot be recorded on this device, which "
            f"sees operations of torch alone: leave the backend out ({device.backend!r})."
        )


def _mode(mode: object, backend: object) -> dict[str, Any]:
    """The options that a mode of inductor stands for.

    Raises:
        MethodError: there is no such mode, or the backend has none.

    """
    if backend != "inductor":
        if mode == "default":
            return {}
        raise MethodError(
            f"capture: compile_pieces gives the mode {mode!r}, and modes are inductor's; the "
            f"backend is {backend!r}: leave the mode out."
        )
    modes: dict[str, dict[str, Any]] = torch._inductor.list_mode_options()
    if mode not in modes:
        raise MethodError(
            f"capture: compile_pieces gives the mode {mode!r}, and torch.compile has only "
            f"{', '.join(sorted(modes))}."
        )
    return dict(modes[str(mode)])
