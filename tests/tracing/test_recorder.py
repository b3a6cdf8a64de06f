"""What cannot be recorded is called whole, and everything around it is still cut."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from pararealize import Parareal, load, pararealize
from pararealize.errors import CutError, ShapeError, TraceError
from pararealize.ir.program import Operation
from pararealize.tracing.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


class Gate(nn.Module):
    """Branches on its input's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the reason names
            return x + torch.tanh(self.up(x))
        return x - torch.tanh(self.down(x))


class Noisy(nn.Module):
    """Draws a number that depends on no input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(()).to(x) * torch.tanh(self.linear(x))


def chain(block: type[nn.Module]) -> nn.Sequential:
    layers = [nn.Linear(6, 6), nn.Tanh(), block(), nn.Linear(6, 6), block(), nn.Linear(6, 6)]
    return nn.Sequential(*layers).double()


def modules(model: nn.Module, **options: object) -> list[str]:
    program = trace(model, **options).train  # type: ignore[arg-type]
    return [o.target for o in program if o.kind == "module"]


def assert_exact(model: nn.Module, n: int, *inputs: Tensor, **options: object) -> None:
    net = pararealize(model, n, method=EXACT, example_inputs=inputs, **options)  # type: ignore[arg-type]
    for training in (True, False):
        found, wanted = copy.deepcopy(net).train(training), copy.deepcopy(model).train(training)
        results = []
        for each in (found, wanted):
            torch.manual_seed(3)
            output = each(*inputs)
            output.square().sum().backward()
            grads = {k: p.grad for k, p in each.named_parameters() if p.grad is not None}
            results.append((output, grads))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
        for name, grad in results[1][1].items():
            torch.testing.assert_close(results[0][1][name], grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", [Gate, Noisy])
@pytest.mark.parametrize("n", [2, 4])
def test_a_block_that_cannot_be_traced_is_called_whole(block: type[nn.Module], n: int) -> None:
    model = chain(block)
    assert modules(model) == ["0", "1", "2", "3", "4", "5"]
    assert_exact(model, n, torch.randn(3, 6, dtype=torch.float64))


def test_the_reason_names_file_and_line_and_is_explained() -> None:
    found = trace(chain(Gate)).whole
    assert set(found) == {"2", "4"}
    assert "test_recorder.py:" in found["2"]
    assert "if x.sum() > 0" in found["2"]
    net = pararealize(chain(Gate), 2)
    assert "Called whole: 2, 4. Gate cannot be traced at" in " ".join(net.explain().split())


def test_only_the_smallest_module_is_called_whole() -> None:
    outer = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), Gate()))
    assert modules(outer) == ["0", "1.0", "1.1"]
    assert modules(outer.eval()) == ["0", "1.0", "1.1"]


class Taking(nn.Module):
    """Its child cannot be called with a trace's values, so that it has to be whole itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Counting()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, list(range(int(x.abs().sum() > 0) + 2)))


class Counting(nn.Module):
    def forward(self, x: Tensor, numbers: list[int]) -> Tensor:
        return x * len(numbers)


def test_the_parent_is_called_whole_where_the_branch_is_its_own() -> None:
    assert modules(nn.Sequential(nn.Linear(6, 6), Taking(), nn.Linear(6, 6))) == ["0", "1", "2"]


def test_a_forward_that_branches_itself_is_an_error_with_advice() -> None:
    model = Gate()
    with pytest.raises(
        TraceError, match=r"Gate cannot be traced at .*test_recorder\.py:\d+ \(if x"
    ):
        pararealize(model, 2, example_inputs=(torch.randn(2, 6),))


def test_named_modules_and_classes_are_leaves() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Tanh())
    assert modules(model) == ["0", "1.0", "1.1", "2"]
    assert modules(model, leaves=["1"]) == ["0", "1", "2"]
    assert modules(nn.Sequential(Noisy(), nn.Tanh()), leaves=[Noisy]) == ["0", "1"]
    assert_exact(model.double(), 2, torch.randn(2, 6, dtype=torch.float64), leaf_modules=["1"])
    with pytest.raises(TraceError, match=r"no module '1.7'.*Near it: '1.1'"):
        pararealize(model, 2, leaf_modules=["1.7"])
    with pytest.raises(TraceError, match="no module <class"):
        pararealize(model, 2, leaf_modules=[nn.Conv2d])


class Switched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, twice: bool = False, kind: str = "tanh") -> Tensor:
        x = torch.tanh(self.a(x)) if kind == "tanh" else torch.relu(self.a(x))
        if twice:
            x = torch.tanh(self.a(x))
        return self.b(x)


def test_arguments_that_decide_the_graph_are_fixed(tmp_path: object) -> None:
    model, x = Switched(), torch.randn(3, 6)
    options = {"method": EXACT, "example_inputs": (x,)}
    torch.testing.assert_close(pararealize(model, 2, **options)(x), model(x))
    given = pararealize(model, 2, example_kwargs={"twice": True}, **options)
    torch.testing.assert_close(given(x, twice=True), model(x, True))
    fixed = {"twice": True, "kind": "relu"}
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,), concrete_args=fixed)
    torch.testing.assert_close(net(x), model(x, True, "relu"))
    torch.testing.assert_close(net(x, twice=True), model(x, True, "relu"))
    with pytest.raises(ShapeError, match="'twice' is True in this network"):
        net(x, twice=False)
    net.save(f"{tmp_path}/net")
    torch.testing.assert_close(load(f"{tmp_path}/net", Switched())(x), net(x))
    with pytest.raises(TraceError, match="no argument 'thrice'"):
        pararealize(model, 2, example_inputs=(x,), concrete_args={"thrice": True})
    with pytest.raises(TraceError, match="a tensor is an input"):
        pararealize(model, 2, example_inputs=(x,), concrete_args={"twice": x})


def test_hooks_on_a_container_run_when_it_is_called_and_not_while_tracing() -> None:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 6)
    )
    seen: list[object] = []
    model[1].register_forward_hook(lambda _m, _args, output: seen.append(output))
    net = pararealize(model, 2, method=Parareal(iterations=2))
    assert not seen
    assert "1" in net.plan.tracing.found
    net(torch.randn(2, 6))
    assert seen
    assert all(isinstance(value, Tensor) for value in seen)


def transformer(layers: int, *, norm: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(8) if norm else None).double()


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.encoder = transformer(4)
        self.out = nn.Linear(8, 11)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out(self.encoder(self.embed(tokens), mask=mask))


@pytest.mark.parametrize("masked", [False, True])
def test_torchs_transformer_is_cut_between_its_layers(masked: bool) -> None:
    model = Tokens().double()
    tokens = torch.randint(0, 11, (2, 5))
    inputs = (tokens, nn.Transformer.generate_square_subsequent_mask(5).double())[: 1 + masked]
    net = pararealize(model, 4, example_inputs=inputs)
    assert {"encoder.layers.1", "encoder.layers.3"} <= {
        name for piece in net.plan.pieces for name in piece.layers
    }
    assert_exact(model, 4, *inputs)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Transformer(8, 2, 2, 3, 16, dropout=0.0, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.whole(source, target)


def test_encoder_and_decoder_are_cut_where_two_tensors_cross() -> None:
    inputs = (torch.randn(2, 5, 8).double(), torch.randn(2, 4, 8).double())
    model = Pair().double()
    net = pararealize(model, 6, method=EXACT, example_inputs=inputs)
    assert max(len(piece.state) for piece in net.plan.pieces) == 2
    assert_exact(model, 6, *inputs)


def test_a_padding_mask_keeps_the_encoder_whole() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = transformer(2)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.encoder(x, src_key_padding_mask=padding)

    assert modules(Padded()) == ["encoder"]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.first, self.second = (kind(6, 6, batch_first=True) for _ in range(2))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)[0])[0]
        return self.out(x[:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_layers(kind: type[nn.LSTM | nn.GRU]) -> None:
    assert_exact(Recurrent(kind).double(), 3, torch.randn(2, 5, 6, dtype=torch.float64))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            attended, _ = layer(x, x, x, need_weights=False)
            x = x + attended
        return x


def test_attention_is_a_layer() -> None:
    assert_exact(Attending().double(), 3, torch.randn(2, 5, 8, dtype=torch.float64))


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: Tensor


class Answering(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> object:
        hidden = torch.tanh(self.body(x))
        logits = self.out(hidden)
        if self.kind == "dataclass":
            return Answer(logits, hidden)
        return {"logits": logits, "hidden": hidden} if self.kind == "dict" else (logits, [hidden])


@pytest.mark.parametrize("kind", ["dataclass", "dict", "tuple"])
def test_answers_keep_their_kind(kind: str) -> None:
    model, x = Answering(kind), torch.randn(2, 6)
    found = pararealize(model, 3, method=EXACT)(x)
    wanted = model(x)
    assert type(found) is type(wanted)
    if kind == "dataclass":
        found, wanted = vars(found), vars(wanted)
    torch.testing.assert_close(found, wanted)


def test_operations_inside_an_unrolled_module_know_where_they_are() -> None:
    program = trace(Tokens()).train
    layer = next(o for o in program if o.target == "encoder.layers.1")
    assert isinstance(layer, Operation)
    assert layer.scope == "encoder.layers.1"


def test_too_few_interfaces_are_explained_by_what_is_called_whole() -> None:
    with pytest.raises(CutError, match=r"'2' is called whole: Gate cannot be traced at .*blocks="):
        pararealize(chain(Gate), 9)


class Buffered(nn.Module):
    """Computes with a buffer, and reads its size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))
        self.register_buffer("variance", torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x / torch.sqrt(self.variance))
        return x[:, : self.variance.shape[0]] + self.variance.log()


def test_what_is_computed_of_buffers_follows_them() -> None:
    model, x = Buffered().double(), torch.randn(3, 6).double()
    net = pararealize(model, 2, method=EXACT, example_inputs=(x,))
    other = Buffered().double()
    net.load_state_dict(other.state_dict())
    torch.testing.assert_close(net(x), other(x))


class Writing(nn.Module):
    """Writes in place and does not use the result."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[0](x)
        if self.how == "flag":
            nn.functional.relu(y, inplace=True)
        if self.how == "method":
            y.relu_()
        z = torch.empty_like(y)
        if self.how == "out":
            torch.add(y, 1.0, out=z)
            z = z.detach()
        return self.layers[2](self.layers[1](y + z if self.how == "out" else y))


@pytest.mark.parametrize("how", ["flag", "method"])
def test_writes_whose_result_nobody_reads_are_kept(how: str) -> None:
    assert_exact(Writing(how).double(), 2, torch.randn(3, 6, dtype=torch.float64))


def test_writes_on_an_argument_are_kept() -> None:
    model, x = Writing("out").double().requires_grad_(False), torch.randn(3, 6).double()
    net = pararealize(model, 1, example_inputs=(x,))
    torch.testing.assert_close(net(x), model(x))


class Switching(nn.Module):
    """Part of it learns nothing, part of it computes in another precision."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad() if self.how == "no_grad" else torch.autocast("cpu", torch.bfloat16):
            y = self.a(x)
        return x + self.b(y.to(x.dtype))


@pytest.mark.parametrize("how", ["no_grad", "autocast"])
def test_modules_that_switch_gradients_or_precision_are_called_whole(how: str) -> None:
    layers = [nn.Linear(6, 6), Switching(how), nn.Linear(6, 6), Switching(how), nn.Linear(6, 6)]
    model = nn.Sequential(*layers).double()
    assert modules(model) == ["0", "1", "2", "3", "4"]
    assert_exact(model, 3, torch.randn(3, 6, dtype=torch.float64))
    with pytest.raises(TraceError, match="switches gradients or autocast"):
        pararealize(Switching(how), 2, example_inputs=(torch.randn(2, 6),))


class Augmented(nn.Module):
    """Adds in place to a value that has another name, or a view, or neither."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[0](x)
        z = y[:, :3] if self.how == "view" else y
        y += torch.sigmoid(x)
        y *= 2.0
        x = self.layers[1](y)
        if self.how != "neither":
            x = x + z.sum(1, keepdim=True)
        return self.layers[2](x)


@pytest.mark.parametrize("how", ["name", "view", "neither"])
def test_in_place_arithmetic_shows_in_every_name_of_a_value(how: str) -> None:
    model, x = Augmented(how).double(), torch.randn(3, 6).double()
    program = trace(model).train
    names = {getattr(o.target, "__name__", "") for o in program if o.kind == "function"}
    assert names >= ({"add", "mul"} if how == "neither" else {"iadd", "imul"})
    for n in (1, 2):
        torch.testing.assert_close(
            pararealize(model, n, method=EXACT, example_inputs=(x,))(x), model(x)
        )
    assert_exact(model, 2, x)
