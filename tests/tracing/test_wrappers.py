"""Networks inside others: adapters, trainers, sharded weights, and forwards that only hand on."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from networks import TanhBlock as Block
from pararealize import Parareal, load, pararealize
from pararealize.errors import TraceError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Adapted(nn.Module):
    """A linear layer with adapters by name, as peft writes them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.2)})
        self.active_adapters, self.scaling = ["default"], {"default": 2.0}
        self.merged = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        for name in self.active_adapters:
            if name in self.lora_A.keys() and not self.merged:  # noqa: SIM118
                inner = self.lora_A[name](self.lora_dropout[name](x))
                result = result + self.lora_B[name](inner) * self.scaling[name]
        return result


class PeftModel(nn.Module):
    """What peft puts around a network."""

    __module__ = "peft.peft_model"

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model
        self.peft_config = {"default": SimpleNamespace(**settings)}

    def get_base_model(self) -> Any:
        return self.base_model.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_base_model()(*args, **kwargs)


class PeftModelForMore(PeftModel):
    __module__ = "peft.peft_model"


class Trained(nn.Module):
    """A module that trains itself, as Lightning's: with a trainer that holds everything."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(Block() for _ in range(6)))
        self.trainer = SimpleNamespace(model=self, logged=[])
        self.prepare_data_per_node = True

    def log(self, name: str, value: Tensor) -> None:
        self.trainer.logged.append((name, tuple(value.shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Tensor, _index: int) -> Tensor:
        loss = self(batch).square().mean()
        self.log("loss", loss)
        return loss  # type: ignore[no-any-return]


class Handing(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(*(Block() for _ in range(6)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Optional(Handing):
    def forward(self, x: Tensor, **others: Tensor) -> Tensor:
        return self.inner(x) * others.get("scale", 1.0)  # type: ignore[no-any-return]


class FSDPModule:
    __module__ = "torch.distributed.fsdp"


class Sharded(FSDPModule, Block):
    pass


def adapted() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(Adapted(nn.Linear(4, 4)), nn.Tanh()) for _ in range(6)))


@pytest.mark.parametrize("kind", [PeftModel, PeftModelForMore])
def test_adapters_are_trained_in_the_network_inside(kind: type[PeftModel], tmp_path: Any) -> None:
    model, x = kind(adapted()).double(), torch.randn(3, 4).double()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    assert type(net.to_serial()) is nn.Sequential
    for seed in range(2):
        results = []
        for each in (model, net):
            each.zero_grad()
            torch.manual_seed(seed)
            results.append(each(x))
            results[-1].square().sum().backward()
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    weights = dict(net.named_parameters())
    for path, weight in model.get_base_model().named_parameters():
        assert weights[path].requires_grad == weight.requires_grad == ("lora" in path)
        if weight.requires_grad:
            torch.testing.assert_close(weights[path].grad, weight.grad, rtol=1e-10, atol=1e-12)
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", kind(adapted()).double())
    assert torch.equal(again.eval()(x), net.eval()(x))


def test_learnt_prompts_are_refused() -> None:
    with pytest.raises(TraceError, match=r"pararealize\(model\.get_base_model\(\), n\)"):
        pararealize(PeftModel(adapted(), is_prompt_learning=True), 3)


def test_a_module_with_its_trainer() -> None:
    torch.manual_seed(0)
    model, x = Trained().double(), torch.randn(3, 4).double()
    model.training_step(x, 0).backward()
    net = pararealize(model, 3, method=EXACT, example_inputs=(x,))
    torch.testing.assert_close(net(x), model(x), rtol=1e-12, atol=1e-12)
    assert model.trainer.logged == [("loss", ())]


@pytest.mark.parametrize(
    ("model", "given"),
    [(Handing(), {"input": torch.ones(2, 4)}), (Optional(), {"x": torch.ones(2, 4)})],
)
def test_arguments_without_names(model: nn.Module, given: dict[str, Tensor]) -> None:
    if isinstance(model, Optional):
        given = {**given, "scale": torch.ones(2, 4)}
    with pytest.raises(TraceError, match=r"pararealize\(model\.inner, n\)"):
        pararealize(model, 3, method=EXACT, example_kwargs=given)


def test_arguments_by_position_without_names() -> None:
    with pytest.raises(TraceError, match=r"pararealize\(model\.inner, n\)"):
        pararealize(Handing(), 3, method=EXACT, example_inputs=(torch.ones(2, 4),))


@pytest.mark.parametrize("inside", [False, True])
def test_sharded_weights_are_refused(inside: bool) -> None:
    model = nn.Sequential(Block(), Sharded()) if inside else Sharded()
    with pytest.raises(TraceError, match=r"sharded.*comm=group"):
        pararealize(model, 2, example_inputs=(torch.ones(2, 4),))
