"""Shapes, sizes, depths, traces and gradients of the networks in `pararealize.models`."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from pararealize import Parareal, pararealize
from pararealize.models import (
    DenseStep,
    PreActBottleneck,
    SequenceClassifier,
    causal_lm,
    gru,
    implicit_gru,
    odenet,
    resnet,
    resnet56,
    resnet164,
    resnet1001,
    vgg11,
    vgg13,
    vgg16,
    vgg19,
    vit,
)

SMALL_NETS: dict[str, Callable[[], nn.Module]] = {
    "vgg11": lambda: vgg11(classes=10, channels=1, head="small", width=4),
    "vgg13-bn": lambda: vgg13(classes=10, channels=1, head="small", width=4, batch_norm=True),
    "resnet11": lambda: resnet(11, channels=1, width=4),
    "resnet29": lambda: resnet(29, channels=1, width=4),
    "odenet-dense": lambda: odenet(3, width=8),
    "odenet-conv": lambda: odenet(3, width=8, kind="conv"),
    "vit": lambda: vit(2, width=8),
}


@pytest.fixture(params=SMALL_NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return SMALL_NETS[request.param]()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def count(net: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in net.modules())


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def digits(batch: int = 2, side: int = 28) -> Tensor:
    return torch.randn(batch, 1, side, side)


def test_logits_have_one_row_per_image(net: nn.Module) -> None:
    assert net(digits(3)).shape == (3, 10)


def test_gradients_reach_every_parameter(net: nn.Module) -> None:
    net.eval()
    loss = functional.cross_entropy(net(digits(4)), torch.arange(4))
    names, values = zip(*net.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, values), strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


def test_trace_computes_the_same_logits(net: nn.Module) -> None:
    net.eval()
    images = digits()
    torch.testing.assert_close(fx.symbolic_trace(net)(images), net(images))


def test_no_operation_is_in_place(net: nn.Module) -> None:
    assert not any(getattr(module, "inplace", False) for module in net.modules())
    for node in fx.symbolic_trace(net).graph.nodes:
        assert not str(node.target).endswith("_")
        assert not node.kwargs.get("inplace", False)


@pytest.mark.parametrize("side", [28, 32])
def test_small_images_reach_the_heads(side: int) -> None:
    for build in (
        lambda: vgg16(classes=7, channels=1, head="small", width=4),
        lambda: resnet(20, classes=7, channels=1, width=4),
        lambda: odenet(2, width=4, kind="conv", classes=7),
    ):
        assert build().eval()(digits(2, side)).shape == (2, 7)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (vgg11, 132_863_336),
        (vgg13, 133_047_848),
        (vgg16, 138_357_544),
        (vgg19, 143_667_240),
        (lambda: vgg16(batch_norm=True), 138_365_992),
    ],
)
def test_imagenet_vgg_parameter_counts(build: Callable[[], nn.Module], expected: int) -> None:
    assert parameters(on_meta(build)) == expected


@pytest.mark.parametrize(("build", "depth"), [(vgg11, 11), (vgg13, 13), (vgg16, 16), (vgg19, 19)])
def test_vgg_depth_counts_weight_layers(build: Callable[[], nn.Module], depth: int) -> None:
    net = on_meta(build)
    assert count(net, nn.Conv2d) + count(net, nn.Linear) == depth


def test_vgg_carries_torchvision_names() -> None:
    net = on_meta(vgg11)
    weights = [name for name in net.state_dict() if name.endswith("weight")]
    features = [f"features.{index}.weight" for index in (0, 3, 6, 8, 11, 13, 16, 18)]
    assert weights == features + [f"classifier.{index}.weight" for index in (0, 3, 6)]


def test_imagenet_vgg_maps_large_images_to_classes() -> None:
    net = on_meta(vgg16)
    assert net(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_vgg_rejects_an_unknown_head() -> None:
    with pytest.raises(ValueError, match="head"):
        vgg11(head="large")  # type: ignore[arg-type]


@pytest.mark.parametrize(("build", "blocks"), [(resnet56, 18), (resnet164, 54), (resnet1001, 333)])
def test_resnet_block_counts(build: Callable[[], nn.Module], blocks: int) -> None:
    assert count(on_meta(build), PreActBottleneck) == blocks


@pytest.mark.parametrize(("depth", "expected"), [(164, 1_703_258), (1001, 10_327_706)])
def test_resnet_parameter_counts(depth: int, expected: int) -> None:
    assert parameters(on_meta(lambda: resnet(depth))) == expected


@pytest.mark.parametrize("depth", [11, 20, 56, 110, 1001])
def test_resnet_depth_counts_weight_layers(depth: int) -> None:
    net = on_meta(lambda: resnet(depth))
    shortcuts = sum(
        block.shortcut is not None for block in net.modules() if isinstance(block, PreActBottleneck)
    )
    assert shortcuts == 3
    assert count(net, nn.Conv2d) - shortcuts + count(net, nn.Linear) == depth


@pytest.mark.parametrize(
    ("depth", "nearest"), [(57, "56, 65"), (1000, "992, 1001"), (2, "11"), (-4, "11")]
)
def test_resnet_names_the_nearest_valid_depths(depth: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"nearest valid depths: {nearest}$"):
        resnet(depth)


def test_residual_blocks_add_once() -> None:
    graph = fx.symbolic_trace(resnet(29, channels=1, width=4)).graph
    additions = [node for node in graph.nodes if node.target is operator.add]
    assert len(additions) == 9
    assert all(str(node.args[1].target).endswith("conv3") for node in additions)


def test_downsampling_block_strides_its_first_convolution() -> None:
    block = PreActBottleneck(8, 16, stride=2)
    assert block.shortcut is not None
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert (block.shortcut.kernel_size, block.shortcut.stride) == ((1, 1), (2, 2))
    assert block(torch.randn(2, 8, 14, 14)).shape == (2, 16, 7, 7)


def test_projection_acts_on_the_activated_input() -> None:
    block = PreActBottleneck(8, 16, stride=2).eval()
    assert block.shortcut is not None
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x), block.shortcut(functional.relu(block.bn1(x))))


def test_dense_step_is_forward_euler() -> None:
    net = odenet(4, width=5, horizon=2.0, in_features=3, classes=2)
    x = torch.randn(6, 3)
    state = net.opening(x)
    for step in net.steps:
        assert isinstance(step, DenseStep)
        state = state + 0.5 * torch.tanh(state @ step.linear.weight.T + step.linear.bias)
    torch.testing.assert_close(net(x), net.closing(state))


def test_ode_net_names_its_parts() -> None:
    children = [name for name, _ in odenet(3, kind="conv").named_children()]
    assert children == ["opening", "steps", "closing"]


def test_ode_net_rejects_what_it_cannot_build() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        odenet(0)
    with pytest.raises(ValueError, match="kind"):
        odenet(1, kind="sparse")  # type: ignore[arg-type]


def language_model() -> nn.Module:
    torch.manual_seed(0)
    return causal_lm(11, depth=3, width=8, heads=2, context=6).double().eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(0))


def test_a_language_model_has_logits_at_every_position(tokens: Tensor) -> None:
    net = language_model()
    assert net(tokens).shape == (3, 6, 11)
    trace = fx.symbolic_trace(net)
    torch.testing.assert_close(trace(tokens), net(tokens))
    torch.testing.assert_close(trace(tokens[:2, :4]), net(tokens)[:2, :4])


def test_a_language_model_does_not_look_ahead(tokens: Tensor) -> None:
    net = language_model()
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    differ = (net(tokens) - net(changed)).abs().amax((0, 2)) > 1e-9
    assert differ.tolist() == [False] * 4 + [True] * 2


def test_a_language_model_trains_every_weight(tokens: Tensor) -> None:
    net = language_model()
    loss = functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten())
    names, weights = zip(*net.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, weights), strict=True):
        assert gradient.abs().sum() > 0, name


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    attention = vit(1, width=8, heads=2).blocks[0].attention
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    names = {"in_proj_": "inputs.", "out_proj.": "output."}
    ours = attention.state_dict()
    theirs.load_state_dict(
        {a + k: ours[b + k] for a, b in names.items() for k in ("weight", "bias")}
    )
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(attention(x), theirs(x, x, x, need_weights=False)[0])


def test_a_vision_transformer_sees_where_a_patch_is() -> None:
    net = vit(1, width=8, patch=14).eval()
    images = digits()
    moved = images.roll(14, dims=-1)
    assert not torch.allclose(net(images), net(moved))
    nn.init.zeros_(net.positions)
    torch.testing.assert_close(net(images), net(moved))


@pytest.mark.filterwarnings("ignore::pararealize.errors.SlowerThanSerialWarning")
@pytest.mark.parametrize(("coarse", "sweeps"), [("fine", 1), ("identity", 4)])
def test_transformers_are_cut_at_one_tensor(coarse: str, sweeps: int, tokens: Tensor) -> None:
    torch.manual_seed(0)
    method = Parareal(coarse=coarse, correction="difference", iterations=sweeps)
    for net, inputs in (
        (vit(6, width=8).double().eval(), digits().double()),
        (language_model(), tokens),
    ):
        parallel = pararealize(net, 4, method=method, example_inputs=(inputs,)).eval()
        assert [len(piece.state) for piece in parallel.plan.pieces] == [1, 1, 1, 0]
        torch.testing.assert_close(parallel(inputs), net(inputs), rtol=1e-12, atol=1e-12)


def test_transformers_name_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="width of 9 does not split into 4 heads"):
        vit(1, width=9)
    with pytest.raises(ValueError, match="side 28 do not split into patches of side 5"):
        vit(1, patch=5)
    with pytest.raises(ValueError, match="at least one block, not 0"):
        causal_lm(5, depth=0)


def frame_features() -> nn.Module:
    """A small network of single images, to 16 numbers each."""
    return resnet(11, classes=16, channels=1, width=2).eval()


@pytest.fixture(params=[gru, implicit_gru])
def classifier(request: pytest.FixtureRequest) -> Callable[..., SequenceClassifier]:
    return request.param


def test_sequences_get_one_row_of_logits(classifier: Callable[..., SequenceClassifier]) -> None:
    assert classifier(9)(torch.randn(3, 9, 6)).shape == (3, 7)
    net = classifier(4, inputs=2, width=5, classes=3, dt=0.5)
    assert net(torch.randn(2, 4, 2)).shape == (2, 3)


def test_features_see_every_frame_alone(classifier: Callable[..., SequenceClassifier]) -> None:
    net = classifier(4, inputs=16, features=frame_features())
    frames = torch.randn(2, 4, 1, 8, 8)
    hidden = torch.zeros(2, 64)
    for frame in frames.unbind(1):
        hidden = net.step(hidden, net.features(frame))
    torch.testing.assert_close(net(frames), net.head(hidden))


def test_a_classic_classifier_is_torchs_gru() -> None:
    net, theirs = gru(9), nn.GRU(6, 64, batch_first=True)
    theirs.load_state_dict({f"{k}_l0": v for k, v in net.step.state_dict().items()})
    x = torch.randn(3, 9, 6)
    torch.testing.assert_close(net(x), net.head(theirs(x)[0][:, -1]))


def test_classifiers_of_sequences_are_traced(
    classifier: Callable[..., SequenceClassifier],
) -> None:
    net = classifier(4, inputs=16, features=frame_features())
    trace = fx.symbolic_trace(net)
    for batch in (2, 5):
        frames = torch.randn(batch, 4, 1, 8, 8)
        torch.testing.assert_close(trace(frames), net(frames))
    assert sum(node.target == "features.fc" for node in trace.graph.nodes) == 4


def test_gradients_reach_every_weight_through_time(
    classifier: Callable[..., SequenceClassifier],
) -> None:
    net = classifier(5, inputs=16, features=frame_features())
    names, weights = zip(*net.named_parameters(), strict=True)
    loss = net(torch.randn(3, 5, 1, 8, 8)).square().sum()
    for name, gradient in zip(names, torch.autograd.grad(loss, weights), strict=True):
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("length", [8, 10])
def test_sequences_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"\[batch, 9, \.\.\.\], not \[2, {length}, 6\]"):
        gru(9)(torch.randn(2, length, 6))
    with pytest.raises(ValueError, match="at least one frame"):
        gru(0)
