"""Runs of residual layers, and pieces with one layer for each interval of them."""

from networks import layer_names, small_chain, span
from pararealize.chain.repeated_blocks import repeated_blocks
from pararealize.coarse.intervals import Rediscretized
from pararealize.ir.chain import Chain
from pararealize.ir.program import Ref, Segment


def rediscretized(chain: Chain, first: int, last: int) -> Segment | None:
    return Rediscretized().coarsened(chain, first, last, last - first)[0]


def test_runs_are_of_two_or_more_equal_residual_layers() -> None:
    chain, _ = small_chain("resnet")
    runs = repeated_blocks(chain, 0, len(chain.layers))
    found = [layer_names("resnet", list(range(run.start, run.stop))) for run in runs]
    assert found == [[f"layer{s}.{b}" for b in (1, 2, 3, 4)] for s in (1, 2, 3)]
    start, stop = runs[0].start, runs[0].stop
    assert repeated_blocks(chain, start, start + 1) == []
    (later,) = repeated_blocks(chain, start + 1, stop)
    assert (later.start, later.stop) == (start + 1, stop)
    assert repeated_blocks(chain, *span("resnet", "conv1", "layer1.0")) == []


def test_rediscretized_runs_take_one_longer_step() -> None:
    chain, _ = small_chain("ode")
    segment = rediscretized(chain, *span("ode", "steps.1", "steps.4"))
    assert segment is not None
    modules = [o.target for o in segment.operations if o.kind == "module"]
    assert modules == ["steps.2.linear"]
    scaled = next(o for o in segment.operations if o.name.endswith("_scaled"))
    assert scaled.args[1] == 3.0
    assert segment.operations[-1].uses == (*segment.state, scaled.name)
    assert segment.results == (segment.operations[-1].name,)


def test_other_layers_of_a_rediscretized_piece_stay() -> None:
    chain, _ = small_chain("resnet")
    segment = rediscretized(chain, *span("resnet", "layer1.2", "layer2.4"))
    assert segment is not None
    scopes = {o.scope.removesuffix(".conv3") for o in segment.operations}
    assert {"layer1.3", "layer2.0", "layer2.1"} <= scopes
    assert not {"layer1.4", "layer2.2", "layer2.3", "layer2.4"} & scopes


def test_nothing_to_rediscretize() -> None:
    assert rediscretized(small_chain("vgg")[0], 3, 9) is None
    assert rediscretized(small_chain("ode")[0], *span("ode", "steps.0", "steps.1")) is None


def test_every_value_of_a_rediscretized_segment_exists() -> None:
    chain, _ = small_chain("resnet")
    segment = rediscretized(chain, 2, len(chain.layers))
    assert segment is not None
    known = {*segment.state, *segment.inputs}
    for operation in segment.operations:
        assert set(operation.uses) <= known
        known.add(operation.name)
    assert Ref(segment.operations[-2].name) in segment.operations[-1].args
