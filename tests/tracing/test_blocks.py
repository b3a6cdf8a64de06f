"""Networks whose forward cannot be traced are cut between the blocks of a named list."""

import copy
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from networks import Block, Language
from pararealize import Parareal, load, pararealize
from pararealize.cli.specs import load_model
from pararealize.cli.zoos import import_torchvision
from pararealize.errors import ModelSpecError, TraceError

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
EXACT = Parareal(coarse="fine", correction="difference")


def outcome(net: nn.Module, *args: Any, **kwargs: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(5)
    leaves = [leaf for leaf in tree_leaves(net(*args, **kwargs)) if isinstance(leaf, Tensor)]
    net.zero_grad()
    losses = [leaf.square().sum() for leaf in leaves if leaf.is_floating_point()]
    torch.stack(losses).sum().backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return leaves, grads


def assert_same(net: nn.Module, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    for training in (True, False):
        found = outcome(copy.deepcopy(net).train(training), *args, **kwargs)
        wanted = outcome(copy.deepcopy(model).train(training), *args, **kwargs)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-11)
        for name, grad in wanted[1].items():
            torch.testing.assert_close(found[1][name], grad, rtol=1e-8, atol=1e-10)


def tokens() -> Tensor:
    return torch.randint(0, 13, (2, 5))


METHODS = [EXACT, Parareal(iterations=3), Parareal(iterations=3, coarse="identity")]


class Vision(nn.Module):
    """Blocks on patches of an image: the state that they begin with is the guess."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(16, 8)
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.out = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError("images")
        x = self.patches(images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(1, 3))
        for block in self.blocks:
            x = block(x, x.new_zeros(x.shape[1], x.shape[1]))[0]
        return self.out(x.mean(1))


@pytest.mark.parametrize("method", METHODS)
def test_where_no_guess_network_is_known_the_first_state_is_the_guess(method: Parareal) -> None:
    model, images = Vision().double(), torch.randn(2, 1, 8, 12).double()
    net = pararealize(model, 3, method=method, example_inputs=(images,), blocks="blocks")
    assert_same(net, model, images)
    net = pararealize(model, 3, example_inputs=(images,), blocks="blocks")
    assert [piece.guess for piece in net.plan.pieces] == ["none", "stem", "stem"]
    assert net(images).shape == (2, 5)


@pytest.mark.parametrize("method", METHODS)
def test_it_equals_the_serial_network(method: Parareal) -> None:
    model, given = Language().double(), tokens()
    net = pararealize(model, 3, method=method, example_inputs=(given,), blocks="trunk.blocks")
    cuts = [piece.module for piece in net.plan.pieces[:-1]]
    assert all(cut.startswith("trunk.blocks.") for cut in cuts)
    assert_same(net, model, given)
    assert_same(net, model, torch.randint(0, 13, (3, 7)))  # another length, another mask
    drawn = []
    for each in (net, model):
        torch.manual_seed(7)
        each.train()(given)
        drawn.append(torch.rand(2))
    assert torch.equal(*drawn)  # what lies before the blocks drew once, though it ran again
    own = {k for k in net.state_dict() if not k.startswith(("coarse.", "guess."))}
    assert own == set(model.state_dict())
    assert net.out.weight is net.tokens.weight


def test_arguments_and_modes(tmp_path: Any) -> None:
    model, given, weights = Language().double(), tokens(), torch.rand(2, 5).double()
    options: dict[str, Any] = {"method": EXACT, "blocks": "trunk.blocks"}
    net = pararealize(
        model, 2, example_inputs=(given,), example_kwargs={"weights": weights}, **options
    )
    assert_same(net, model, given, weights=weights)
    labels = pararealize(
        model, 2, example_inputs=(given,), concrete_args={"labels": True}, **options
    )
    assert torch.equal(labels.eval()(given)["labels"], model.eval()(given, labels=True)["labels"])
    net.save(tmp_path / "net")
    again = load(tmp_path / "net", Language().double())
    assert again.plan.tracing.blocks == "trunk.blocks"
    torch.testing.assert_close(again.eval()(given, weights), net.eval()(given, weights))
    assert isinstance(net.to_serial(), Language)
    assert_same(net, net.to_serial(), given, weights)
    assert_same(copy.deepcopy(net), model, given, weights=weights)


def test_the_default_network_trains() -> None:
    torch.manual_seed(1)
    model, given = Language(), tokens()
    net = pararealize(model, 3, example_inputs=(given,), blocks="trunk.blocks")
    assert {piece.guess for piece in net.plan.pieces} <= {"none", "low rank", "tokens"}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(given)["logits"].flatten(0, 1), given.flatten())
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in net.parameters())


def test_the_network_itself_is_left_alone() -> None:
    model, given = Language(), tokens()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    blocks = list(model.trunk["blocks"])
    net = pararealize(model, 2, example_inputs=(given,), blocks="trunk.blocks")
    assert torch.equal(state, torch.get_rng_state())
    assert list(model.trunk["blocks"]) == blocks
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)
    )
    net(given)
    assert not [m for m in net.modules() if type(m).__name__ == "Stub"]


def test_a_failure_in_a_block_leaves_the_blocks_in_place() -> None:
    model, given = Language(), tokens()
    net = pararealize(model, 2, example_inputs=(given,), blocks="trunk.blocks")
    with pytest.raises(ValueError, match="too long"):
        net(torch.zeros(2, 12, dtype=torch.int64))
    assert net(given)["logits"].shape == (2, 5, 13)


class Odd(Language):
    def forward(self, tokens: Tensor, kind: str = "cache") -> Tensor:
        x = self.tokens(tokens)
        mask = torch.zeros(tokens.shape[1], tokens.shape[1])
        for i, block in enumerate(self.trunk["blocks"]):
            if kind == "skip" and i == 1:
                continue
            x = block(x, {} if kind == "cache" else mask)[0]
            x = x + 1 if kind == "between" else x
        return self.out(x)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("cache", "trunk.blocks.0 is given a dict, .*use_cache"),
        ("skip", "of the 4 blocks .* the network called 3"),
    ],
)
def test_blocks_that_are_no_chain_are_refused(kind: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        pararealize(
            Odd(),
            2,
            example_inputs=(tokens(),),
            blocks="trunk.blocks",
            concrete_args={"kind": kind},
        )


def test_what_is_computed_between_two_blocks_is_part_of_the_program() -> None:
    model, given = Odd().double(), tokens()
    options: dict[str, Any] = {"blocks": "trunk.blocks", "concrete_args": {"kind": "between"}}
    net = pararealize(model, 2, method=EXACT, example_inputs=(given,), **options)
    torch.testing.assert_close(net.eval()(given), model.eval()(given, kind="between"))


def test_what_is_no_list_of_blocks_is_refused() -> None:
    with pytest.raises(TraceError, match=r"no list of modules .*it has 'trunk.blocks'"):
        pararealize(Language(), 2, example_inputs=(tokens(),), blocks="trunk.block")
    with pytest.raises(TraceError, match="needs the arguments of one call"):
        pararealize(Language(), 2, blocks="trunk.blocks")


def test_gpt2_and_bert_of_transformers() -> None:
    with suppress(ModelSpecError):
        import_torchvision()  # transformers imports it, and cannot where its operators do not fit
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.GPT2Config(n_layer=4, n_embd=16, n_head=2, use_cache=False, **size)
    model, given = transformers.GPT2LMHeadModel(config).double(), torch.randint(0, 50, (2, 7))
    for method in (EXACT, Parareal(iterations=4)):
        net = pararealize(model, 4, method=method, example_inputs=(given,), blocks="transformer.h")
        assert_same(net, model, input_ids=given)
    assert type(net(given)) is type(model(given))
    cached = {"use_cache": True}
    with pytest.raises(TraceError, match="use_cache"):
        pararealize(model, 2, example_inputs=(given,), blocks="transformer.h", concrete_args=cached)
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    bert = transformers.BertModel(
        transformers.BertConfig(vocab_size=50, num_hidden_layers=4, **small)
    ).double()
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    options: dict[str, Any] = {"example_inputs": (given,), "blocks": "encoder.layer"}
    net = pararealize(bert, 4, method=EXACT, example_kwargs={"attention_mask": mask}, **options)
    assert_same(net, bert, given, attention_mask=mask)


@pytest.mark.rest
def test_a_vision_transformer_of_timm_is_traced() -> None:
    with suppress(ModelSpecError):
        import_torchvision()
    pytest.importorskip("timm", reason="timm is not installed")
    model = load_model("timm:vit_tiny_patch16_224").double()
    net = pararealize(model, 4, method=EXACT)
    assert net.plan.interfaces > 11
    assert_same(net, model, torch.randn(1, 3, 224, 224).double())


def test_the_list_of_blocks_is_found() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4)
    x = torch.randn(2, 5, 8)
    net = pararealize(encoder, 3, method=EXACT, example_inputs=(x,))
    assert net.plan.tracing.blocks == "layers"
    torch.testing.assert_close(net.eval()(x), encoder.eval()(x))
