"""State that is more than tensors: extra state, hooks and overrides of the network's own class."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, Parareal, load, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Scaled(nn.Sequential):
    """Keeps a number beside its weights."""

    largest = 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.largest)

    def set_extra_state(self, state: Tensor) -> None:
        self.largest = int(state)


class Renamed(nn.Sequential):
    """Writes and reads its weights by other names than they have."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}mark"] = torch.tensor(3.0)

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        self.mark = state.pop(f"{prefix}mark")
        super()._load_from_state_dict(state, prefix, *args, **kwargs)


class Versioned(nn.Sequential):
    """Was called ``last`` before version 2."""

    _version = 2

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.read = metadata.get("version")
        super()._load_from_state_dict(state, prefix, metadata, *args, **kwargs)


def layers() -> list[nn.Module]:
    return [nn.Linear(4, 4) for _ in range(4)]


def cut(model: nn.Module) -> ParallelNetwork:
    return pararealize(model, 2, method=EXACT, example_inputs=(torch.randn(2, 4),))


def test_extra_state_is_kept(tmp_path: Path) -> None:
    model = Scaled(*layers())
    model.largest = 7
    net = cut(model)
    assert set(model.state_dict()) <= set(net.state_dict())
    assert net.state_dict()["_extra_state"] == 7
    net.save(tmp_path / "net")
    serial: Any = load(tmp_path / "net", Scaled(*layers())).to_serial()
    assert serial.largest == 7
    other = cut(Scaled(*layers()))
    other.load_state_dict(model.state_dict())
    assert other.original.largest == 7
    holder = nn.ModuleDict({"net": cut(Scaled(*layers()))})
    given = {f"net.{name}": v for name, v in model.state_dict().items()}
    holder.load_state_dict({**holder.state_dict(), **given})
    assert holder.net.original.largest == 7  # type: ignore[union-attr]


def test_overrides_are_kept(tmp_path: Path) -> None:
    model = Renamed(*layers())
    net = cut(model)
    assert net.state_dict()["mark"] == 3.0
    net.save(tmp_path / "net")
    serial: Any = load(tmp_path / "net", Renamed(*layers())).to_serial()
    assert serial.mark == 3.0
    assert torch.equal(serial[0].weight, model[0].weight)


def test_versions_are_kept(tmp_path: Path) -> None:
    model = Versioned(*layers())
    net = cut(model)
    assert net.state_dict()._metadata[""] == {"version": 2}
    net.load_state_dict(model.state_dict())
    assert net.original.read == 2
    net.save(tmp_path / "net")
    assert load(tmp_path / "net", Versioned(*layers())).original.read == 2


def _mark(_module: nn.Module, state: Any, prefix: str, _metadata: Any) -> None:
    state[f"{prefix}seen"] = torch.tensor(1.0)


def _note(_module: nn.Module, prefix: str, _keep: bool) -> None:
    NOTED.append(prefix)


def _unmark(_module: nn.Module, state: Any, prefix: str, *_: Any) -> None:
    del state[f"{prefix}seen"]


NOTED: list[str] = []


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_hooks_of_the_state_run(late: bool) -> None:
    model = nn.Sequential(*layers())
    net = cut(model) if late else None
    hooked: nn.Module = model if net is None else net
    loaded: list[Any] = []
    hooked.register_state_dict_post_hook(_mark)
    hooked.register_state_dict_pre_hook(_note)
    hooked.register_load_state_dict_pre_hook(_unmark)
    hooked.register_load_state_dict_post_hook(lambda _m, keys: loaded.append(keys))
    net = cut(model) if net is None else net
    NOTED.clear()
    state = net.state_dict()
    assert state["seen"] == 1
    assert NOTED == [""]
    net.load_state_dict(copy.copy(state))
    assert len(loaded) == 1
