"""Saved networks: bit for bit, whole at every moment, and refused where they are not."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pararealize import ParallelNetwork, Parareal, load, pararealize
from pararealize.errors import MethodError, NotAModuleError, StorageError
from pararealize.ir.chain import TensorSpec
from pararealize.models import odenet, resnet
from pararealize.storage.read import seal

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def build() -> nn.Module:
    return odenet(9, width=8, in_features=6)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
        self.layers[4].weight = self.layers[1].weight
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("scratch", torch.randn(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x - self.mean)


@pytest.fixture
def net() -> ParallelNetwork:
    torch.manual_seed(0)
    return pararealize(build(), 3)


@pytest.fixture
def saved(net: ParallelNetwork, tmp_path: Path) -> Path:
    net.save(tmp_path / "net")
    return tmp_path / "net"


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def document(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((path / "plan.json").read_text(encoding="utf-8"))
    return values


def rewritten(path: Path, **changes: Any) -> None:
    """Change the plan as one who knows of its digest."""
    values = seal(document(path) | changes)
    (path / "plan.json").write_text(json.dumps(values), encoding="utf-8")


def weights(path: Path) -> Path:
    return path / str(next(iter(document(path)["weights"])))


# round trips


@pytest.mark.parametrize(
    "method",
    [
        Parareal(),
        Parareal(correction="difference", iterations=2, seed=5),
        Parareal(coarse="fine", guess="coarse"),
        Parareal(coarse="identity"),
        Parareal(coarse="rediscretized", correction="difference", guess="coarse"),
        Parareal(coarse="auto"),
        Parareal(iterations=3),
        Parareal(iterations=0, tolerance=0.25),
    ],
    ids=lambda m: f"{m.coarse}-{m.correction}-{m.iterations}-{m.guess}",
)
def test_weights_and_outputs_come_back_bit_for_bit(method: Parareal, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = pararealize(build(), 3, method=method)
    net.save(tmp_path / "net")
    again, x = load(tmp_path / "net", build()), torch.randn(5, 6)
    assert same(again, net)
    assert again.plan == net.plan
    assert again.schedule == net.schedule
    assert torch.equal(again(x), net(x))
    assert same(again.to_serial(), net.to_serial())


def test_statistics_and_dtypes_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = pararealize(resnet(20, width=4).double(), 3)
    net(torch.randn(4, 3, 16, 16, dtype=torch.float64))
    net.eval().save(tmp_path)
    again = load(tmp_path, resnet(20, width=4).double()).eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert same(again, net)
    assert torch.equal(again(x), net(x))


def test_the_given_model_is_left_alone(saved: Path) -> None:
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load(saved, model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_was_chosen_by_measurement_is_chosen_again(tmp_path: Path) -> None:
    net = pararealize(build(), 3, method=Parareal(coarse="auto"))
    assert [piece.coarse for piece in net.plan.pieces[1:]] == ["identity"] * 2
    net.save(tmp_path)
    stiff = build()
    with torch.no_grad():
        for parameter in stiff.parameters():
            parameter.mul_(50)
    assert load(tmp_path, stiff).plan == net.plan


@pytest.mark.parametrize("cost", ["predicted", "measured"])
def test_shapes_and_costs_of_the_saved_network_decide(cost: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 20, 20)
    net = pararealize(resnet(20, width=4), 3, example_inputs=(x,), cost=cost).eval()
    net.save(tmp_path)
    again = load(tmp_path, resnet(20, width=4)).eval()
    assert again.plan == net.plan
    assert torch.equal(again(x), net(x))


def test_shapes_that_cannot_be_inferred_are_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Tanh(), *(nn.Linear(4, 4) for _ in range(5)), nn.Flatten(0, 1))
    x, method = torch.randn(3, 5, 4), Parareal(coarse="fine", guess="coarse")
    net = pararealize(model, 2, example_inputs=(x,), method=method)
    net.save(tmp_path)
    assert torch.equal(load(tmp_path, model)(x), net(x))


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = pararealize(Tied(), 3)
    net.save(tmp_path)
    assert document(tmp_path)["aliases"] == {"layers.4.weight": "layers.1.weight"}
    again = load(tmp_path, Tied())
    assert same(again, net)
    assert again.layers[1].weight is again.layers[4].weight
    assert "scratch" not in net.state_dict()


def test_views_of_one_tensor_are_kept_apart(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
            base = torch.randn(4, 4)
            self.register_buffer("whole", base)
            self.register_buffer("row", base[0])
            self.register_buffer("turned", base.t())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x + self.row) @ self.turned

    net = pararealize(Views(), 2)
    net.save(tmp_path)
    assert same(load(tmp_path, Views()), net)


def linear(fine: nn.Module, before: TensorSpec, after: TensorSpec) -> nn.Module:
    return nn.Linear(before.shape[-1], after.shape[-1])


def test_a_users_coarse_function_is_given_again(tmp_path: Path) -> None:
    net = pararealize(build(), 3, method=Parareal(coarse=linear))
    net.save(tmp_path)
    assert same(load(tmp_path, build(), coarse=linear), net)
    with pytest.raises(MethodError, match=r"callable:linear.*load\(path, model, coarse=function\)"):
        load(tmp_path, build())


def test_a_module_before_an_operation_of_its_name(tmp_path: Path) -> None:
    net = pararealize(resnet(20, width=4), 2, interfaces=["relu"])
    net.save(tmp_path)
    assert load(tmp_path, resnet(20, width=4)).plan == net.plan


# writing


def test_the_folder_holds_a_plan_and_its_weights(saved: Path) -> None:
    names = sorted(files(saved))
    assert names == ["plan.json", weights(saved).name]
    assert document(saved)["plan"]["model"] == "ODENet"


def test_saving_again_replaces_the_weights(net: ParallelNetwork, saved: Path) -> None:
    first = weights(saved)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    net.save(saved)
    assert not first.exists()
    assert len(files(saved)) == 2
    assert same(load(saved, build()), net)


def test_other_files_in_the_folder_stay(net: ParallelNetwork, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    net.save(tmp_path)
    net.save(str(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


class Failing:
    """Raises an ``OSError`` at one of the calls of a function."""

    def __init__(self, function: Callable[..., Any], at: int) -> None:
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self.at + 1:
            raise OSError(28, "No space left on device")
        return self.function(*args, **kwargs)


#: Everything that writing calls of the operating system, and how often.
STEPS = [
    *((os, name, at) for name in ("write", "fsync") for at in (0, 1)),
    *((os, "open", at) for at in (1, 2)),  # the first is of the folder, to lock it
    (os, "replace", 0),
    (Path, "mkdir", 0),
]


@pytest.mark.parametrize(
    ("owner", "name", "at"), STEPS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_a_failure_leaves_a_whole_network(
    net: ParallelNetwork,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    at: int,
) -> None:
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        next(net.parameters()).add_(1)
    failing = Failing(getattr(owner, name), at)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(StorageError, match=r"cannot be written .*No space left"):
            net.save(saved)
    assert failing.calls == at + 1
    found = load(saved, build()).state_dict()
    old = all(torch.equal(found[k], before[k]) for k in found)
    new = all(torch.equal(found[k], v) for k, v in net.state_dict().items())
    assert old or new
    assert old != (name == "unlink")
    net.save(saved)
    assert same(load(saved, build()), net)
    assert len(files(saved)) == 2


def test_an_interruption_leaves_no_temporary_file(
    net: ParallelNetwork, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = files(saved)
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        net.save(saved)
    assert files(saved) == before


def test_a_file_in_the_way(net: ParallelNetwork, tmp_path: Path) -> None:
    (tmp_path / "net").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        net.save(tmp_path / "net")
    with pytest.raises(StorageError):
        net.save(tmp_path / "net" / "inner")
    assert (tmp_path / "net").read_text() == "a file"


def test_what_is_no_tensor_is_not_saved(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: Any) -> None:
            pass

    net = pararealize(
        nn.Sequential(Extra(4, 4), nn.Linear(4, 4)), 1, example_inputs=torch.ones(1, 4)
    )
    with pytest.raises(StorageError, match="_extra_state is a dict"):
        net.save(tmp_path / "net")
    assert not (tmp_path / "net").exists()


# reading what is damaged or foreign


def truncate(path: Path) -> None:
    weights(path).write_bytes(weights(path).read_bytes()[:-10])


def flip(path: Path) -> None:
    data = bytearray(weights(path).read_bytes())
    data[-5] ^= 1
    weights(path).write_bytes(data)


def half_plan(path: Path) -> None:
    text = (path / "plan.json").read_text()
    (path / "plan.json").write_text(text[: len(text) // 2])


def changed_plan(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    plan = document(path)["plan"]
    change(plan)
    rewritten(path, plan=plan)


Damage = Callable[[Path], object]
DAMAGE: dict[str, tuple[Damage, str]] = {
    "truncated weights": (truncate, "foreign: weights-[0-9a-f]{16}.safetensors has changed"),
    "flipped bit": (flip, "foreign: weights-[0-9a-f]{16}.safetensors has changed"),
    "missing weights": (lambda p: weights(p).unlink(), "is missing"),
    "missing plan": (lambda p: (p / "plan.json").unlink(), r"no saved network.*net\.save\("),
    "half a plan": (half_plan, "plan.json cannot be read"),
    "empty plan": (lambda p: (p / "plan.json").write_text(""), "plan.json cannot be read"),
    "binary plan": (lambda p: (p / "plan.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a list": (lambda p: (p / "plan.json").write_text("[]"), "is no object"),
    "foreign json": (lambda p: (p / "plan.json").write_text('{"name": "x"}'), "format None"),
    "another version": (lambda p: rewritten(p, format=99), "format 99, and this version reads"),
    "no digest": (lambda p: rewritten(p, weights={weights(p).name: None}), "has changed"),
    "no aliases": (lambda p: rewritten(p, aliases=None), "lacks or misstates"),
    "no plan inside": (lambda p: rewritten(p, plan={}), "lacks or misstates"),
    "unknown field": (
        lambda p: changed_plan(p, lambda plan: plan.update(colour=3)),
        "lacks or misstates",
    ),
    "outside": (
        lambda p: rewritten(p, weights={"../secret.safetensors": ""}),
        "outside the folder",
    ),
    "absolute": (lambda p: rewritten(p, weights={"/etc/hostname": ""}), "outside the folder"),
    "parent": (lambda p: rewritten(p, weights={"..": ""}), "cannot be read|outside"),
    "nothing": (lambda p: rewritten(p, weights={"": ""}), "cannot be read|outside"),
    "null byte": (lambda p: rewritten(p, weights={"a\0b": ""}), "cannot be read|outside"),
    "dangling alias": (lambda p: rewritten(p, aliases={"a": "b"}), "shared weights are missing"),
    "unknown cut": (
        lambda p: changed_plan(p, lambda plan: plan["pieces"][0].update(after="nowhere")),
        "nowhere",
    ),
    "unknown kind": (
        lambda p: changed_plan(p, lambda plan: plan["pieces"][1].update(coarse_kind="magic")),
        "magic",
    ),
    "bad option": (
        lambda p: changed_plan(p, lambda plan: plan["method"].update(iterations=-1)),
        "iterations",
    ),
    "unknown option": (
        lambda p: changed_plan(p, lambda plan: plan["method"].update(colour=1)),
        "colour",
    ),
    "bad shape": (
        lambda p: changed_plan(p, lambda plan: plan.update(inputs={"inputs": "[2, float32"})),
        "lacks or misstates",
    ),
    "bad dtype": (
        lambda p: changed_plan(p, lambda plan: plan.update(inputs={"inputs": "[2, 6] int0"})),
        "int0",
    ),
    "no pieces": (
        lambda p: changed_plan(p, lambda plan: plan.update(pieces=[])),
        "damaged|another",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(saved: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(saved)
    with pytest.raises(StorageError, match=message) as caught:
        load(saved, build())
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600


def test_foreign_weights_under_the_right_digest(saved: Path) -> None:
    weights(saved).write_bytes(b"no safetensors at all")
    digest = hashlib.sha256(weights(saved).read_bytes()).hexdigest()
    rewritten(saved, weights={weights(saved).name: digest})
    with pytest.raises(StorageError, match="cannot be read"):
        load(saved, build())


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_folder_without_a_network(tmp_path: Path, path: str) -> None:
    with pytest.raises(StorageError, match="holds no saved network"):
        load(tmp_path / path, build())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("")
    with pytest.raises(StorageError, match="cannot be read"):
        load(tmp_path / "net", build())


@pytest.mark.parametrize(
    "model",
    [
        odenet(9, width=16, in_features=6),
        odenet(7, width=8, in_features=6),
        odenet(9, width=8, in_features=6, classes=3),
        odenet(9, width=8, in_features=7),
        resnet(20, width=4),
        nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 10)),
        nn.ReLU(),
    ],
    ids=["wider", "shorter", "classes", "inputs", "resnet", "sequential", "relu"],
)
def test_another_model_is_refused(saved: Path, model: nn.Module) -> None:
    with pytest.raises(StorageError, match="another network, saved from a ODENet") as caught:
        load(saved, model)
    assert "with a model built like that one" in str(caught.value)


def test_no_model_at_all(saved: Path) -> None:
    with pytest.raises(NotAModuleError):
        load(saved, build)  # type: ignore[arg-type]


def test_nothing_is_executed_on_reading(saved: Path) -> None:
    assert weights(saved).suffix == ".safetensors"
    assert not [name for name in files(saved) if name.endswith((".pt", ".pkl", ".bin"))]
