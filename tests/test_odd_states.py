"""Law 14: infinities, booleans, whole numbers and numbers without axes are carried as they are."""

import math

import pytest
import torch
from odd_networks import ODD, Odd, example, finite_loss, largest_difference

from pararealize import MGRIT, Parareal, pararealize

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.errors.SlowerThanSerialWarning")

#: Rounding of a sum of gradients in float64.
ROUNDING = 1e-9

EXACT = {
    "one sweep": Parareal(coarse="fine", correction="difference"),
    "n sweeps": Parareal(iterations=9),
    "tolerance": Parareal(tolerance=1e-12),
}
#: What is not exact in one sweep; it has to compile and to answer with numbers.
ROUGH = {
    "default": Parareal(),
    "coarse guesses": Parareal(guess="coarse", correction="difference"),
    "auto": Parareal(coarse="auto"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("method", EXACT)
def test_exact_networks_are_serial(name: str, method: str) -> None:
    model, x, verify = Odd(ODD[name]), example(), method == "one sweep"  # once for each is enough
    net = pararealize(model, 3, method=EXACT[method], example_inputs=(x,), verify=verify)
    wanted, found = model(x), net(x)
    # Serial to the last digit where one sweep is; elsewhere summed in another order.
    assert largest_difference(found, wanted) <= 1e-12
    finite_loss(wanted).backward()
    finite_loss(found).backward()
    ours = dict(net.named_parameters())
    for key, weight in model.named_parameters():
        if weight.grad is not None:
            assert torch.allclose(ours[key].grad, weight.grad, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", ODD)
def test_rough_networks_answer_with_numbers(name: str) -> None:
    model, x = Odd(ODD[name]), example()
    method = list(ROUGH.values())[list(ODD).index(name) % len(ROUGH)]  # in turn
    net = pararealize(model, 4, method=method, example_inputs=(x,), verify=False)
    found, wanted = net(x), model(x)
    first = found[0] if isinstance(found, tuple) else found
    assert torch.isfinite(first).all()
    assert [type(v) for v in (found, wanted)] == [type(wanted)] * 2
    finite_loss(found).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())
    assert str(net.report)


def test_multigrid_carries_a_running_minimum() -> None:
    """It begins infinite, and after enough cycles it is the serial one."""
    model, x = Odd(ODD["running_minimum"]), example()
    method = MGRIT(coarsening=2, forward_cycles=4, backward_cycles=4)
    net = pararealize(model, 2, method=method, example_inputs=(x,))
    assert largest_difference(net(x), model(x)) <= 1e-12


def test_values_of_inputs_alone_are_no_part_of_a_state() -> None:
    x = example()
    net = pararealize(Odd(ODD["sizes"]), 4, example_inputs=(x,))
    partition = net._emission.decisions.partition
    assert all(len(partition.interface(j).state) == 1 for j in range(1, 4))
    assert net(x[:2]).shape == (2, 3)  # sizes are those of the call


def test_a_count_that_differs_is_no_convergence() -> None:
    """Whole numbers are not corrected: a tolerance is not met while they differ."""
    model, x = Odd(ODD["counts"]), example()
    net = pararealize(model, 3, method=Parareal(tolerance=1e9), example_inputs=(x,))
    assert torch.equal(net(x)[1], model(x)[1])
    rough = pararealize(model, 3, example_inputs=(x,))
    rough(x)
    assert math.isinf(rough.report.largest) or torch.equal(rough(x)[1], model(x)[1])
