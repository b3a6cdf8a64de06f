"""Legal interfaces: positions whose live values are known, by the names of modules."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from networks import UNet
from pararealize.chain.interfaces import build_chain, find_interface, module_ends
from pararealize.cost.profile import profile
from pararealize.errors import CutError
from pararealize.ir.chain import Chain, TensorSpec
from pararealize.ir.plan import Machine
from pararealize.ir.program import AMBIENT
from pararealize.models import resnet, vgg11
from pararealize.tracing.trace import trace


def chain_of(model: nn.Module, *shape: int, width: int = 1) -> Chain:
    traced = trace(model)
    inputs = {traced.train.inputs[0].target: TensorSpec(shape)}
    return build_chain(model, traced, profile(traced.train, model, inputs, Machine()), width)


class Flagged(nn.Module):
    """A flag, not a tensor, lives across the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        real = y.is_floating_point()
        return self.b(torch.tanh(y)) * real


class Indexed(nn.Module):
    """An integer state, then a floating-point one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(10, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embedding((x * 2).long()))


class Auxiliary(nn.Module):
    """Two graphs: another branch while training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.extra = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        if self.training:
            y = y + self.extra(y)
        return self.c(y)


def test_every_position_of_a_plain_chain_is_legal() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) if i % 2 == 0 else nn.ReLU() for i in range(7)))
    chain = chain_of(model, 2, 4)
    assert [i.module for i in chain.interfaces] == ["0", "1", "2", "3", "4", "5"]
    assert [layer.name for layer in chain.layers] == ["0", "1", "2", "3", "4", "5", "6"]
    assert all(i.state == (TensorSpec((2, 4)),) for i in chain.interfaces)


def test_residual_blocks_are_not_cut_inside() -> None:
    chain = chain_of(resnet(20, width=4), 2, 3, 16, 16)
    blocks = [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1)]
    ends = [i.module for i in chain.interfaces]
    assert [name for name in ends if name.startswith("layer") and name.count(".") == 1] == blocks
    assert "conv1" in ends
    assert {"bn", "relu", "avgpool"} <= set(ends)
    assert not any("conv2" in name or "conv3" in name for name in ends)


def test_layers_cover_the_program_once() -> None:
    for chain in (chain_of(vgg11(head="small", width=4), 2, 3, 32, 32), chain_of(UNet(), 2, 4)):
        assert chain.layers[0].start == 0
        assert chain.layers[-1].stop == len(chain.train)
        assert all(a.stop == b.start for a, b in pairwise(chain.layers))
        assert len(chain.layers) == len(chain.interfaces) + 1


def test_width_bounds_the_live_set() -> None:
    names = {w: [i.name for i in chain_of(UNet(), 2, 4, width=w).interfaces] for w in (1, 2, 3)}
    assert names[1] == ["down1", "cat_1", "up1"]
    assert names[2] == ["down1", "down2", "cat", "up2", "cat_1", "up1"]
    assert names[3] == ["down1", "down2", "middle", "cat", "up2", "cat_1", "up1"]


def test_tuple_interfaces_know_all_leaves() -> None:
    chain = chain_of(UNet(), 2, 4, width=2)
    down2 = chain.interfaces[find_interface(chain, "down2")]
    assert down2.state == (TensorSpec((2, 4)),) * 2
    assert down2.bytes == 64
    cat = chain.interfaces[find_interface(chain, "cat")]
    assert [spec.shape for spec in cat.state] == [(2, 8), (2, 4)]  # what is used last stands last


def test_what_is_no_tensor_makes_a_position_illegal() -> None:
    chain = chain_of(Flagged(), 2, 4, width=4)
    assert [i.name for i in chain.interfaces] == ["a"]


def test_a_state_has_a_floating_point_leaf() -> None:
    chain = chain_of(Indexed(), 2, 3)
    assert [i.name for i in chain.interfaces] == ["mul", "embedding"]


def test_interfaces_exist_in_both_programs() -> None:
    chain = chain_of(Auxiliary(), 2, 4)
    assert chain.train is not chain.eval
    assert [i.name for i in chain.interfaces][:2] == ["a", "b"]
    for interface in chain.interfaces:
        assert chain.eval.operations[interface.eval_stop - 1].name in interface.eval_values
    assert "add" not in [i.name for i in chain.interfaces]


def test_interfaces_are_found_by_module_or_operation() -> None:
    chain = chain_of(resnet(20, width=4), 2, 3, 16, 16)
    for name in ("layer1", "layer1.1", "conv1"):
        assert str(chain.interfaces[find_interface(chain, name)]).startswith(name[:6])
    assert find_interface(chain, "layer1") == find_interface(chain, "layer1.1")
    assert find_interface(chain, "add") == find_interface(chain, "layer1.0")
    assert find_interface(chain, "%add") == find_interface(chain, "add")


def test_a_module_comes_before_an_operation_of_its_name() -> None:
    chain = chain_of(resnet(20, width=4), 2, 3, 16, 16)
    module = chain.interfaces[find_interface(chain, "relu")]
    operation = chain.interfaces[find_interface(chain, "%relu")]
    assert module.module == "relu"
    assert operation.name == "relu"
    assert operation.stop < module.stop


@pytest.mark.parametrize(
    ("wanted", "near"), [("layer1.7", "layer1.1"), ("laye2", "layer2"), ("conv", "conv1")]
)
def test_unknown_names_suggest_near_ones(wanted: str, near: str) -> None:
    chain = chain_of(resnet(20, width=4), 2, 3, 16, 16)
    with pytest.raises(CutError) as caught:
        find_interface(chain, wanted)
    assert f"no module is called {wanted!r}" in str(caught.value)
    assert "interfaces=[" in str(caught.value)
    assert repr(near) in str(caught.value)


def test_a_module_without_interface_names_the_nearest() -> None:
    chain = chain_of(resnet(20, width=4), 2, 3, 16, 16)
    with pytest.raises(CutError, match=r"cannot be cut after 'layer1.1.conv2'.*'layer1.1'"):
        find_interface(chain, "layer1.1.conv2")


def test_module_ends_cover_containers() -> None:
    program = trace(resnet(20, width=4)).train
    ends = module_ends(program)
    assert ends["layer1"] == ends["layer1.1"] > ends["layer1.0"]
    assert program.operations[ends["layer3"]].name == "add_5"


def test_segments_run_to_the_same_output() -> None:
    chain = chain_of(UNet(), 2, 4, width=3)
    names = [
        o.name
        for i in range(len(chain.layers))
        for o in chain.segment(i, i + 1, training=True).operations
    ]
    assert names == [o.name for o in chain.train if o.kind not in AMBIENT]
