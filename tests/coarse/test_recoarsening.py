"""Coarse propagators chosen and fitted again, for weights that have moved."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pararealize import MGRIT, ParallelNetwork, Parareal, load, pararealize
from pararealize.errors import CutError, MethodError, ShapeError
from pararealize.models import odenet
from pararealize.propagators.fine import Fine

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: Rounding of sums in another order.
TOLERANCE = 1e-12


def model() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return odenet(16, width=6, in_features=5).double(), torch.randn(7, 5).double()


def compiled(coarse: str, **options: object) -> tuple[ParallelNetwork, Tensor]:
    serial, x = model()
    method = MGRIT(coarsening=4, coarse=coarse, **options)  # type: ignore[arg-type]
    return pararealize(serial, 4, method=method, example_inputs=(x,)), x


def shrink(net: nn.Module, factor: float) -> None:
    """Of the residual layers' weights."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("steps"):
                p.mul_(factor)


def kinds(net: ParallelNetwork) -> set[str]:
    return {piece.coarse for piece in net.plan.pieces if piece.coarse != "none"}


def factors(net: ParallelNetwork) -> list[float]:
    """Those by which the residuals of a fitted propagator are multiplied."""
    part = net.propagators["coarse.2"]
    assert isinstance(part, Fine)
    scaled = [o for o in part.segments[0].operations if o.name.endswith("_scaled")]
    return [float(o.args[1]) for o in scaled]


def test_another_kind_is_chosen_where_it_is_the_best_now() -> None:
    net, x = compiled("auto")
    (before,) = kinds(net)
    assert before != "identity"
    shrink(net, 1e-6)
    net.recoarsen()
    assert kinds(net) == {"identity"}
    assert "identity" in net.explain()
    assert net.propagators["coarse.2"].label.startswith("the identity")
    torch.testing.assert_close(net(x), net.to_serial()(x), rtol=1e-5, atol=1e-5)
    net(x)
    assert net.report.calls == 2  # counted on
    shrink(net, 1e6)
    net.recoarsen(x)
    assert kinds(net) == {before}


def test_fits_follow_the_weights() -> None:
    net, x = compiled("fitted")
    before = factors(net)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("steps"):
                p.copy_(torch.randn_like(p))
    net.recoarsen(x)
    assert factors(net) != before
    fresh = pararealize(
        net.to_serial(), 4, method=MGRIT(coarsening=4, coarse="fitted"), example_inputs=(x,)
    )
    assert factors(net) == pytest.approx(factors(fresh), rel=1e-9)


def test_as_many_cycles_as_steps_stay_exact() -> None:
    net, x = compiled("auto", forward_cycles=4, backward_cycles=4)
    shrink(net, 1e-3)
    net.recoarsen(x)
    serial = net.to_serial()
    for module in (net, serial):
        module(x).pow(2).mean().backward()
    wanted = {name: p.grad for name, p in serial.named_parameters()}
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=TOLERANCE, atol=TOLERANCE)


def test_the_choice_is_kept_in_copies_and_files(tmp_path: Path) -> None:
    net, x = compiled("auto")
    shrink(net, 1e-6)
    net.recoarsen()
    net.save(tmp_path / "net")
    loaded = load(tmp_path / "net", model()[0])
    for other in (loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert kinds(other) == {"identity"}
        torch.testing.assert_close(other(x), net(x), rtol=TOLERANCE, atol=TOLERANCE)
        other.recoarsen(x)
        assert kinds(other) == {"identity"}


def test_a_loaded_network_is_fitted_to_the_weights_it_loads(tmp_path: Path) -> None:
    net, _ = compiled("fitted")
    shrink(net, 3.0)
    net.recoarsen()
    net.save(tmp_path / "net")
    loaded = load(tmp_path / "net", model()[0])
    assert factors(loaded) == pytest.approx(factors(net), rel=1e-9)


def test_what_has_no_choice_is_refused() -> None:
    serial, x = model()
    net = pararealize(serial, 2, method=Parareal(), example_inputs=(x,))
    with pytest.raises(MethodError, match="compiled with another method"):
        net.recoarsen()
    own = MGRIT(coarsening=4, coarse=lambda *_: nn.Identity())
    wide = odenet(16, width=6, in_features=6)
    net = pararealize(wide, 4, method=own, example_inputs=(torch.randn(7, 6),))
    with pytest.raises(MethodError, match="networks with weights of their own"):
        net.recoarsen()
    net, _ = compiled("auto")
    with pytest.raises(ShapeError, match="do not fit"):
        net.recoarsen(x, x, x)


def test_more_slices_than_residual_layers_are_named_as_that() -> None:
    serial, x = model()
    with pytest.raises(CutError, match=r"40 subnetworks are more than .* n=19"):
        pararealize(serial, 40, method=MGRIT(coarse="mean"), example_inputs=(x,))
    net = pararealize(serial, 19, method=MGRIT(coarsening=2, coarse="mean"), example_inputs=(x,))
    assert net.plan.n == 19
