"""Zoos: models by name out of torchvision, timm, and local folders of transformers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pararealize.errors import ModelSpecError

#: The name of the weights that a zoo recommends.
DEFAULT = "DEFAULT"


def zoo_model(spec: str) -> nn.Module | None:
    """The model that ``ZOO:NAME`` or ``ZOO:NAME:WEIGHTS`` names; ``None``: it is of no zoo.

    Raises:
        ModelSpecError: the package, the model or the weights do not exist, or cannot be had.

    """
    zoo, _, rest = spec.partition(":")
    if zoo not in ZOOS or not rest:
        return None
    name, _, weights = rest.partition(":")
    return ZOOS[zoo](name, weights)


def is_untrained(spec: str) -> bool:
    """Whether a model of a zoo is named without weights, so that its own are random."""
    zoo, _, rest = spec.partition(":")
    return zoo in {"torchvision", "timm"} and bool(rest) and ":" not in rest


def untrained(spec: str) -> str:
    """What to say of such a model."""
    return (
        f"The weights of {spec} are random: name {spec}:{DEFAULT} for trained ones, or give your "
        "own with --weights FILE."
    )


def _torchvision(name: str, weights: str) -> nn.Module:
    models = import_torchvision()
    try:
        known = models.get_model_weights(name)
    except ValueError as error:
        near = [m for m in models.list_models(module=models) if m.startswith(name[:3])][:5]
        raise ModelSpecError(f"torchvision has no model {name!r}; near it: {near}.") from error
    if weights and weights != DEFAULT and weights not in known.__members__:
        some = ", ".join([DEFAULT, *known.__members__])
        raise ModelSpecError(f"torchvision's {name} has no weights {weights!r}: one of {some}.")
    if not weights:
        return _module(models.get_model(name, weights=None))
    chosen = known[weights]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(chosen.url).name)
    with _fetching(f"torchvision:{name}:{weights}", f"download {chosen.url} to {file}"):
        return _module(models.get_model(name, weights=chosen))


def _timm(name: str, weights: str) -> nn.Module:
    with suppress(ModelSpecError):
        import_torchvision()  # timm imports it, and cannot where its operators do not fit
    timm = _imported("timm")
    if not timm.is_model(name):
        near = timm.list_models(f"{name[:4]}*")[:5]
        raise ModelSpecError(f"timm has no model {name!r}; near it: {near}.")
    tags = timm.list_pretrained(f"{name}.*")
    if weights and weights != DEFAULT and f"{name}.{weights}" not in tags:
        some = ", ".join([DEFAULT, *(tag.partition(".")[2] for tag in tags)])
        raise ModelSpecError(f"timm's {name} has no weights {weights!r}: one of {some}.")
    whole = name if weights in {"", DEFAULT} else f"{name}.{weights}"
    if not weights:
        return _module(timm.create_model(whole, pretrained=False))
    way = "download them where there is one, save model.state_dict(), and name the file"
    with _fetching(f"timm:{name}:{weights}", way):
        return _module(timm.create_model(whole, pretrained=True))


def _transformers(folder: str, rest: str) -> nn.Module:
    """A network that ``save_pretrained`` wrote, by its own class; nothing is downloaded."""
    path = Path(f"{folder}:{rest}" if rest else folder)
    if not (path / "config.json").is_file():
        raise ModelSpecError(
            f"transformers:{path} is no folder with a config.json: write one with "
            "model.save_pretrained(folder), here or where there is a network."
        )
    with suppress(ModelSpecError):
        import_torchvision()  # transformers imports it too
    transformers = _imported("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        model: nn.Module = kind.from_pretrained(path, local_files_only=True)
    except Exception as error:  # what is damaged raises errors of every kind
        raise ModelSpecError(
            f"transformers:{path} cannot be read ({_reason(error)}): write it again with "
            "model.save_pretrained(folder)."
        ) from error
    return model


#: What a name may begin with, and how the rest of it is read.
ZOOS: dict[str, Callable[[str, str], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}


def _module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelSpecError(
            f"{package} is not installed ({error}): pip install {package}."
        ) from error


@contextmanager
def _fetching(spec: str, otherwise: str) -> Iterator[None]:
    """A block that downloads weights.

    Raises:
        ModelSpecError: they cannot be had; says what to do ``otherwise``.

    """
    try:
        yield
    except Exception as error:  # each zoo has its own for what a network does
        raise ModelSpecError(
            f"the weights of {spec} cannot be downloaded ({_reason(error)}). Without a network: "
            f"{otherwise}; or give your own, {spec.rpartition(':')[0]} --weights FILE."
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def import_torchvision() -> Any:
    """``torchvision.models``, also where its compiled operators do not fit this torch.

    Importing it registers shape rules for two operators; with a torch they were not built for
    these do not exist, and declaring them is enough for models that use neither, as classifiers.
    """
    try:
        return importlib.import_module("torchvision.models")
    except ImportError as error:
        raise ModelSpecError(
            f"torchvision is not installed ({error}): pip install torchvision."
        ) from error
    except RuntimeError:
        _declare_operators()
    return importlib.import_module("torchvision.models")


@cache
def _declare_operators() -> torch.library.Library:
    """The two operators, declared for as long as the process lives."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
