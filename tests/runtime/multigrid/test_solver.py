"""The solver beside dense linear algebra: all states of an affine chain at once, and a cycle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import pytest
import torch
from torch import Tensor

from chains import WIDTH, Chain, batch, chain, cuts
from networks import compiled, cotangent, relative
from pararealize import MGRIT
from pararealize.network import ParallelNetwork

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")

#: Solves with well conditioned triangular matrices of a few dozen rows, rounded to 1e-16.
ROUNDING = 1e-12


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


@dataclass
class Affine:
    """Steps u_j = A_j u_{j-1} + b_j, batches as columns."""

    matrices: list[Tensor]
    shifts: list[Tensor]

    @classmethod
    def of(cls, model: Chain) -> Affine:
        layers = list(model.layers)
        matrices = [eye(WIDTH) + layer.h * layer.map.weight.detach() for layer in layers]
        return cls(matrices, [layer.h * layer.map.bias.detach() for layer in layers])

    def joined(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """All of some steps as one."""
        matrix, shift = eye(WIDTH), torch.zeros(WIDTH, dtype=torch.float64)
        for a, b in zip(self.matrices[first:last], self.shifts[first:last], strict=True):
            matrix, shift = a @ matrix, a @ shift + b
        return matrix, shift

    def every(self, each: int) -> Affine:
        """One step for ``each`` of them, exactly."""
        parts = [self.joined(i, i + each) for i in range(0, len(self.matrices), each)]
        return Affine([a for a, _ in parts], [b for _, b in parts])

    def coarse(self, each: int) -> Affine:
        """One step for ``each`` of them, ``each`` times the first one's."""
        matrices = [eye(WIDTH) + each * (a - eye(WIDTH)) for a in self.matrices[::each]]
        return Affine(matrices, [each * b for b in self.shifts[::each]])

    def system(self) -> Tensor:
        """The block bidiagonal matrix of u_0, …, u_n."""
        n = len(self.matrices)
        whole = eye(WIDTH * (n + 1))
        for j, a in enumerate(self.matrices, start=1):
            rows, columns = slice(j * WIDTH, (j + 1) * WIDTH), slice((j - 1) * WIDTH, j * WIDTH)
            whole[rows, columns] = -a
        return whole

    def right_side(self, start: Tensor) -> Tensor:
        columns = start.shape[1]
        return torch.cat([start, *(b[:, None].expand(WIDTH, columns) for b in self.shifts)])


def blocks(stacked: Tensor) -> list[Tensor]:
    return list(stacked.split(WIDTH))


@dataclass
class Direct:
    """States and adjoints as columns, and the output."""

    states: list[Tensor]
    adjoints: list[Tensor]
    output: Tensor


def direct(model: Chain, x: Tensor) -> Direct:
    """Both triangular systems, solved at once."""
    steps, start = Affine.of(model), model.stem(x).detach().T
    states = torch.linalg.solve(steps.system(), steps.right_side(start))
    output = model.head(blocks(states)[-1].T).detach()
    last = torch.zeros_like(states)
    last[-WIDTH:] = (cotangent(output) @ model.head.weight.detach()).T
    adjoints = torch.linalg.solve(steps.system().T, last)
    return Direct(blocks(states), blocks(adjoints), output)


def weight_gradients(
    model: Chain, states: list[Tensor], adjoints: list[Tensor]
) -> dict[str, Tensor]:
    """Of the layers' weights and biases: λ_j u_{j-1}ᵀ and λ_j, summed over the batch."""
    found = {}
    for j, layer in enumerate(model.layers):
        found[f"layers.{j}.map.weight"] = layer.h * adjoints[j + 1] @ states[j].T
        found[f"layers.{j}.map.bias"] = layer.h * adjoints[j + 1].sum(1)
    return found


def gradients(net: ParallelNetwork, output: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in net.named_parameters() if name.startswith("layers")]
    loss = (output * cotangent(output)).sum()
    found = torch.autograd.grad(loss, [net.get_parameter(name) for name in names])
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("storage", ["all", "points"])
@pytest.mark.parametrize("relaxation", ["F", "FCF"])
@pytest.mark.parametrize(("levels", "coarsening"), [(2, 2), (3, 2), (3, (2, 4)), (4, 2)])
def test_converged_states_and_adjoints_solve_the_linear_systems(
    levels: int, coarsening: int | tuple[int, ...], relaxation: str, storage: str
) -> None:
    """Before cycles are exact by their number: 8 steps, and a factor below 1e-2 a cycle."""
    model, x = chain(16, "linear", horizon=0.3), batch()
    method = MGRIT(
        levels,
        coarsening,
        "rediscretized",
        relaxation=relaxation,
        forward_cycles=7,
        backward_cycles=7,
        storage=storage,
    )
    net = compiled(model, 8, method, x, cuts(8, 2))
    assert net.plan.n == 8
    output, wanted = net(x), direct(model, x)
    assert relative({"": output}, {"": wanted.output}) <= ROUNDING
    expected = weight_gradients(model, wanted.states, wanted.adjoints)
    assert relative(gradients(net, output), expected) <= ROUNDING


def test_tests_of_convergence_start_far_off() -> None:
    """One cycle is not enough for them, so that they test the cycles."""
    model, x = chain(16, "linear", horizon=0.3), batch()
    output = compiled(model, 8, MGRIT(2, 2, "rediscretized"), x, cuts(8, 2))(x)
    assert relative({"": output}, {"": direct(model, x).output}) > 1e-7


@pytest.mark.parametrize("cycles", [1, 2])
def test_cycles_are_those_of_matrices(cycles: int) -> None:
    """u ← u + D⁻¹(f - L u) with the fine system L and the coarse one D, at the C-points."""
    n, each = 4, 3
    model, x = chain(n * each, "linear"), batch()
    method = MGRIT(2, each, "rediscretized", forward_cycles=cycles, guard=100.0)
    net = compiled(model, n, method, x, cuts(n, each))
    output = net(x)
    steps, start = Affine.of(model), model.stem(x).detach().T
    fine, rough = steps.every(each), steps.coarse(each)
    states = [torch.linalg.solve(rough.system(), rough.right_side(start))]
    for _ in range(cycles):
        residual = fine.right_side(start) - fine.system() @ states[-1]
        states.append(states[-1] + torch.linalg.solve(rough.system(), residual))
    wanted = model.head(blocks(states[-1])[-1].T).detach()
    assert relative({"": output}, {"": wanted}) <= ROUNDING
    assert relative({"": output}, {"": model(x)}) > 1e-6
    jumps = {
        (k, j): float(block.norm())
        for k, state in enumerate(states[:-1])
        for j, block in enumerate(blocks(fine.right_side(start) - fine.system() @ state))
    }
    reported = {(jump.sweep, jump.interface): jump.norm for jump in net.report.jumps}
    assert reported.keys() >= {(k, j) for k in range(cycles) for j in range(k + 1, n)}
    for key, size in reported.items():
        assert size == pytest.approx(jumps[key], rel=1e-9)


def test_one_adjoint_cycle_is_that_of_matrices() -> None:
    """λ from the coarse adjoint system; in slices the fine ones, at the states of one cycle."""
    n, each = 4, 3
    model, x = chain(n * each, "linear"), batch()
    net = compiled(model, n, MGRIT(2, each, "rediscretized", guard=100.0), x, cuts(n, each))
    output = net(x)
    found = gradients(net, output)
    steps, start = Affine.of(model), model.stem(x).detach().T
    rough = steps.coarse(each)
    guesses = blocks(torch.linalg.solve(rough.system(), rough.right_side(start)))
    last = torch.zeros(WIDTH * (n + 1), x.shape[0], dtype=torch.float64)
    last[-WIDTH:] = (cotangent(output) @ model.head.weight.detach()).T
    coarse_adjoints = blocks(torch.linalg.solve(rough.system().T, last))
    states, adjoints = [], [torch.zeros(0)] * (n * each + 1)
    for j in range(n):
        state = guesses[j]
        for i in range(j * each, (j + 1) * each):
            states.append(state)
            state = steps.matrices[i] @ state + steps.shifts[i][:, None]
        adjoint = coarse_adjoints[j + 1]
        for i in range((j + 1) * each, j * each, -1):
            adjoints[i] = adjoint
            adjoint = steps.matrices[i - 1].T @ adjoint
    assert relative(found, weight_gradients(model, states, adjoints)) <= ROUNDING
    exact = direct(model, x)
    assert relative(found, weight_gradients(model, exact.states, exact.adjoints)) > 1e-4


def test_matrices_of_steps_are_the_models() -> None:
    model, x = chain(4, "linear"), batch()
    matrix, shift = Affine.of(model).joined(0, 4)
    wanted = model.layers(model.stem(x)).T
    assert relative({"": matrix @ model.stem(x).T + shift[:, None]}, {"": wanted}) <= ROUNDING
    assert reduce(torch.matmul, Affine.of(model).matrices[::-1]).allclose(matrix)
