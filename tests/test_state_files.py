"""State outside of a call: number formats, copies, saved folders that were tampered with or cut."""

import copy
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import struct
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import relative
from pararealize import Machine, ParallelNetwork, Parareal, load, pararealize
from pararealize.errors import MethodError, PararealizeError
from pararealize.models import odenet
from pararealize.storage.read import seal

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
FINE = Parareal(coarse="fine", correction="difference")
SWEEPS = Parareal(iterations=3)
every_exact = pytest.mark.parametrize("method", [FINE, SWEEPS], ids=["fine", "sweeps"])


def images() -> nn.Module:
    layers = [(nn.Conv2d(3, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.Tanh()) for _ in range(6)]
    return nn.Sequential(*(part for parts in layers for part in parts))


def compiled(model: nn.Module, method: Parareal, x: Tensor) -> ParallelNetwork:
    return pararealize(model, 3, method=method, example_inputs=(x,))


def error(found: Tensor, wanted: Tensor) -> float:
    return relative({"": found}, {"": wanted})


# number formats and layouts


@every_exact
def test_channels_last_is_kept(method: Parareal) -> None:
    last = torch.channels_last
    model, x = images().to(memory_format=last), torch.randn(2, 3, 6, 6).to(memory_format=last)
    early = compiled(model, method, x)
    late = compiled(images(), method, x).to(memory_format=last)
    for net in (early, late, early.to_serial()):
        assert net(x).is_contiguous(memory_format=last)
        assert net.get_parameter("3.weight").is_contiguous(memory_format=last)
    assert error(early(x), model(x)) < 1e-5


def gradients(module: nn.Module, names: nn.Module, output: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    output.float().square().sum().backward()
    found = {name: module.get_parameter(name).grad for name, _ in names.named_parameters()}
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


@every_exact
def test_autocast_is_as_accurate_as_on_the_serial_network(method: Parareal) -> None:
    model, x = images(), torch.randn(2, 3, 6, 6)
    net = compiled(model, method, x)
    exact = model(x)
    exact_gradients = gradients(model, model, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = net(x), model(x)
        compiled(model, method, x)(x)  # compiles under autocast, too
    assert found.dtype == wanted.dtype == torch.bfloat16
    assert error(found, exact) < 0.01 + 2 * error(wanted, exact)
    assert error(found, wanted) < 0.03  # of numbers of 8 bits
    off = relative(gradients(model, model, wanted), exact_gradients)
    assert relative(gradients(net, model, found), exact_gradients) < 0.01 + 2 * off


@every_exact
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_networks_of_any_precision(dtype: torch.dtype, method: Parareal) -> None:
    model, x = images().to(dtype), torch.randn(2, 3, 6, 6, dtype=dtype)
    late = compiled(images(), method, torch.randn(2, 3, 6, 6)).to(dtype)
    late.load_state_dict(model.state_dict())
    for net in (compiled(model, method, x), late):
        output = net(x)
        assert {output.dtype} == {p.dtype for p in net.parameters()} == {dtype}
        assert error(output, model(x)) < 10 * torch.finfo(dtype).eps
        output.sum().backward()


# copies


def trained(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    net(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()


def chain() -> nn.Module:
    layers = [(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Tanh()) for _ in range(6)]
    return nn.Sequential(*(part for parts in layers for part in parts))


def assert_equal_state(found: nn.Module, wanted: nn.Module) -> None:
    left, right = found.state_dict(), wanted.state_dict()
    assert list(left) == list(right)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("method", [FINE, SWEEPS, Parareal()], ids=["fine", "sweeps", "default"])
def test_training_goes_on_from_every_kind_of_copy(method: Parareal, tmp_path: Path) -> None:
    net = compiled(chain(), method, torch.randn(4, 6))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for seed in range(2):
        trained(net, optimizer, seed)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    fresh = compiled(chain(), method, torch.randn(4, 6))
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    net.save(tmp_path)
    copies = [fresh, load(tmp_path, chain()), copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    optimizers = [torch.optim.AdamW(each.parameters(), 1e-2) for each in copies]
    for other in optimizers:
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, own in ((net, optimizer), *zip(copies, optimizers, strict=True)):
        for seed in range(2, 4):
            trained(each, own, seed)
        assert_equal_state(each, net)


@every_exact
@pytest.mark.rest
def test_compiled_by_torch_after_training(method: Parareal) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)) for _ in range(4)))
    x = torch.randn(4, 6)
    net = compiled(model, method, x)
    trained(net, torch.optim.SGD(net.parameters(), 0.1), 0)
    twin = copy.deepcopy(net)
    fast: Any = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(fast(x), twin(x))
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(net.get_buffer(name), buffer)


class Scratch(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
        self.register_buffer("mask", torch.full((6,), value), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x * self.mask)


def test_buffers_that_are_not_saved_are_copied_and_come_from_the_model(tmp_path: Path) -> None:
    net = pararealize(Scratch(2.0), 2)
    for each in (net, net.to_serial(), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert "mask" not in each.state_dict()
        assert torch.equal(each.get_buffer("mask"), torch.full((6,), 2.0))
    net.save(tmp_path)
    assert torch.equal(load(tmp_path, Scratch(3.0)).get_buffer("mask"), torch.full((6,), 3.0))


# hostile folders


def build() -> nn.Module:
    return odenet(9, width=8, in_features=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("whole")
    pararealize(build(), 3).save(path)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def folder(whole: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def changed(path: Path, field: str, value: Any) -> None:
    """Set a field of the document, ``a.b.0.c`` inside of it."""
    document = json.loads((path / "plan.json").read_text())
    *parents, last = field.split(".")
    here = document
    for name in parents:
        here = here[int(name)] if isinstance(here, list) else here[name]
    here[last] = value
    (path / "plan.json").write_text(json.dumps(seal(document)))


def weighing(path: Path, content: bytes) -> None:
    """Put other content in the place of the weights, with its right digest."""
    file = next(path.glob("weights-*"))
    file.write_bytes(content)
    changed(path, "weights", {file.name: hashlib.sha256(content).hexdigest()})


def header(values: Any) -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def tensor(dtype: str, shape: list[int], end: int = 16) -> bytes:
    return header({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}})


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


VALUES: dict[str, list[Any]] = {
    "format": [10**4000, [], "2"],
    "weights": [[], "a", {"../../x": ""}, {"a\nb": ""}, {"x" * 5000: ""}, {"\ud800": ""}, {}],
    "aliases": [["a"], {"a": {}}, {"a": "a"}],
    "plan.machine": [3, {"flops_per_second": 0}, {"link_bandwidth": float("nan")}],
    "plan.machine.launch_seconds": ["fast", None, -1],
    "plan.pieces": ["abc", [1, 2], {}],
    "plan.pieces.0.after": [3, {}, [1]],
    "plan.pieces.1.index": ["1", True, 10**30],
    "plan.pieces.1.coarse": [3, ["network"], "x" * 5000],
    "plan.pieces.1.seconds": ["x", None],
    "plan.inputs": [[1], {"x": 3}, {"elsewhere": "[2, 6] float32"}],
    "plan.inputs.inputs": ["[99999999999999, 6] float32", "[-2, 6] float32", "[2, 6] load", "["],
    "plan.tracing": ["x", {"leaf_modules": [{}]}, {"concrete_args": [1]}, {"found": 3}],
    "plan.method": [[], {"coarse": ["x"]}, {"correction": {}}],
    "plan.method.iterations": [10**9, 10**30, 1e300, True],
    "plan.method.seed": [10**30, "x"],
    "plan.chunks": [10**4000, "x"],
    "plan.model": [3],
}
Damage = Callable[[Path], object]
DAMAGE: dict[str, Damage] = {
    "deep lists": lambda p: (p / "plan.json").write_text("[" * 100_000 + "]" * 100_000),
    "deep objects": lambda p: (p / "plan.json").write_text('{"a":' * 100_000),
    "header too long": lambda p: weighing(p, struct.pack("<Q", 2**62) + b"{}"),
    "header beyond the end": lambda p: weighing(p, struct.pack("<Q", 90_000_000) + b"{" * 100),
    "deep header": lambda p: weighing(p, struct.pack("<Q", 200_000) + b'{"a":' * 40_000),
    "huge tensor": lambda p: weighing(p, tensor("F32", [2**40, 2**40])),
    "tensor beyond the end": lambda p: weighing(p, tensor("F32", [4], 10**18)),
    "unknown dtype": lambda p: weighing(p, tensor("Q32", [4])),
    "dtype of another library": lambda p: weighing(p, tensor("F4", [32])),
    "no weights at all": lambda p: weighing(p, b""),
    "pickle": lambda p: weighing(p, pickle.dumps(Evil())),
    "pipe": lambda p: (os.mkfifo(p / "pipe"), changed(p, "weights", {"pipe": ""})),
    "device": lambda p: ((p / "d").symlink_to("/dev/zero"), changed(p, "weights", {"d": ""})),
    "folder": lambda p: ((p / "d").mkdir(), changed(p, "weights", {"d": ""})),
    **{
        f"{field} {str(value)[:30]!r}": lambda p, f=field, v=value: changed(p, f, v)
        for field, values in VALUES.items()
        for value in values
    },
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_hostile_folder_is_refused_in_a_sentence(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DAMAGE[name](folder)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    monkeypatch.chdir(folder)
    start = time.perf_counter()
    model = build()
    kept = copy.deepcopy(model)
    with pytest.raises(PararealizeError) as caught:
        load(folder, model)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert_equal_state(model, kept)


@pytest.mark.parametrize("values", [{"flops_per_second": 0}, {"link_latency": -1.0}])
def test_machines_that_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=r"Machine\(.*expected"):
        Machine(**values)


def test_more_sweeps_than_subnetworks_change_nothing() -> None:
    model, x = build(), torch.randn(3, 6)
    many = pararealize(model, 3, method=Parareal(iterations=10**9))
    assert torch.equal(many(x), pararealize(model, 3, method=SWEEPS)(x))


# a process that is killed while it saves


def keep_saving(path: Path, first: int, saved: Event) -> None:
    """Save networks all of whose numbers are one and the same, again and again."""
    torch.set_num_threads(1)
    net = pararealize(build(), 3)
    for value in range(first, 2**24):
        save_all(net, path, value)
        saved.set()


def save_all(net: ParallelNetwork, path: Path, value: float) -> None:
    for tensor in net.state_dict().values():
        tensor.fill_(value)
    net.save(path)


def test_a_killed_process_leaves_one_whole_network(folder: Path) -> None:
    values, fork = [0], multiprocessing.get_context("fork")
    save_all(load(folder, build()), folder, 0)
    for wait in random.Random(0).sample(range(100), 10):
        saved = fork.Event()
        process = fork.Process(
            target=keep_saving, args=(folder, values[-1] + 1, saved), daemon=True
        )
        process.start()
        assert saved.wait(60)
        time.sleep(wait / 1000)  # into one of the saves to come
        process.kill()
        process.join()
        state = load(folder, build()).state_dict()
        (value,) = {int(number) for tensor in state.values() for number in tensor.unique()}
        values.append(value)
    assert values == sorted(set(values))
    net = pararealize(build(), 3)
    net.save(folder)
    assert len(list(folder.iterdir())) == 2
    assert_equal_state(load(folder, build()), net)
