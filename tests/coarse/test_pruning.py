"""Thin pieces: fewer layers, as operations that still fit together."""

import pytest
from torch import nn

from networks import layer_names, small_chain, span
from pararealize.coarse.pruning import Pruning, Selection, prune, pruned_costs
from pararealize.coarse.setting import Setting
from pararealize.ir.chain import Chain, Cost
from pararealize.ir.plan import Machine
from pararealize.ir.program import Segment

BARE, WHOLE = Pruning(normalisation=False), Pruning(normalisation=True)


def selected(chain: Chain, first: int, last: int, depth: int) -> tuple[Selection, int]:
    """What is selected so that the layers with weights are ``depth`` or more, and how many."""
    selection = Selection(chain, first, last)
    return selection, max(0, depth - selection.changing)


def kept_layers(chain: Chain, first: int, last: int, depth: int) -> list[int]:
    selection, count = selected(chain, first, last, depth)
    return selection.kept(count)


def pruned(
    chain: Chain, model: nn.Module, first: int, last: int, how: Pruning, depth: int = 1
) -> Segment:
    kept = how.kept(*selected(chain, first, last, depth))
    return prune(chain, model, first, last, kept, how)


@pytest.mark.parametrize(
    ("depth", "kept"),
    [(0, ["layer2.0"]), (1, ["layer2.0"]), (2, ["layer2.0", "layer1.4"])],
)
def test_layers_that_change_the_shape_are_kept(depth: int, kept: list[str]) -> None:
    chain, _ = small_chain("resnet")
    piece = span("resnet", "layer1.3", "layer2.4")
    weighted = [i for i in kept_layers(chain, *piece, depth) if chain.layers[i].is_weighted]
    assert set(layer_names("resnet", weighted)) == set(kept)


def test_the_first_repeated_layers_are_kept() -> None:
    chain, _ = small_chain("ode")
    piece = span("ode", "steps.0", "steps.4")
    assert layer_names("ode", kept_layers(chain, *piece, 2)) == ["steps.1", "steps.2"]
    assert len(kept_layers(chain, *piece, 99)) == piece[1] - piece[0]


@pytest.mark.parametrize(("how", "depth"), [(BARE, 1), (WHOLE, 1), (WHOLE, 0), (BARE, 3)])
@pytest.mark.parametrize("name", ["resnet", "vgg", "ode"])
def test_thin_segments_read_only_what_exists(name: str, how: Pruning, depth: int) -> None:
    chain, model = small_chain(name)
    size = len(chain.layers)
    for first, last in [(0, size // 2), (size // 3, 2 * size // 3), (size // 2, size - 1)]:
        segment = pruned(chain, model, first, last, how, depth)
        known = {*segment.state, *segment.inputs}
        for operation in segment.operations:
            assert set(operation.uses) <= known, operation
            known.add(operation.name)
        assert set(segment.results or ()) <= known


def test_thin_segments_leave_normalisation_and_dropout_out() -> None:
    chain, model = small_chain("vgg")
    size = len(chain.layers)
    bare, whole = (pruned(chain, model, 0, size, how) for how in (BARE, WHOLE))
    kinds = [
        {type(model.get_submodule(o.target)) for o in s.operations if o.kind == "module"}
        for s in (bare, whole)
    ]
    assert nn.BatchNorm2d not in kinds[0]
    assert nn.BatchNorm2d in kinds[1]
    assert not any(nn.Dropout in found for found in kinds)


def test_the_inner_convolution_of_a_changing_block_is_left_out() -> None:
    chain, model = small_chain("resnet")
    segment = pruned(chain, model, *span("resnet", "layer1.4", "layer2.0"), BARE)
    modules = {o.target for o in segment.operations if o.kind == "module"}
    assert {"layer2.0.conv1", "layer2.0.conv3", "layer2.0.shortcut"} <= modules
    assert "layer2.0.conv2" not in modules


def test_thin_cost_is_of_what_is_kept() -> None:
    chain, model = small_chain("resnet")
    (first, last) = span("resnet", "layer1.0", "layer1.1")
    assert last == first + 1
    whole = sum(
        (chain.profile.costs[o.name] for o in chain.segment(first, last, training=True).operations),
        Cost(),
    )
    setting = Setting(chain, model, Machine(), difference=True)
    assert pruned_costs(setting, WHOLE).each[first] == whole
    assert pruned_costs(setting, BARE).each[first].flops == whole.flops
    assert pruned_costs(setting, BARE).each[first].seconds < whole.seconds
