"""A chain of equal layers that run in parallel, for those who come from TorchBraid."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from pararealize.compiler import pararealize
from pararealize.errors import MethodError
from pararealize.ir.methods import MGRIT
from pararealize.ir.options import is_count
from pararealize.layers.translate import translate
from pararealize.network import ParallelNetwork
from pararealize.runtime.communication.connect import connect

#: Most slices, and most layers that one coarse layer stands for, unless asked for.
MOST, COARSEST = 16, 8


@final
class EulerStep(nn.Module):
    """Forward Euler step of x' = φ(x), ``y = x + dt * block(x)``; shapes are those of x.

    Haber and Ruthotto, "Stable Architectures for Deep Neural Networks" (arXiv:1705.03341).
    """

    def __init__(self, block: nn.Module, dt: float) -> None:
        super().__init__()
        self.block, self.dt = block, dt

    def forward(self, x: Tensor) -> Tensor:
        """The state a step later."""
        # Out of place: a residual layer is found by its sum, and blocks may give what they keep.
        later: Tensor = x + self.dt * self.block(x)
        return later

    def extra_repr(self) -> str:
        """The step size."""
        return f"dt={self.dt}"


def chain_of(steps: Iterable[EulerStep]) -> nn.Sequential:
    """The steps between two identities, so that the first and the last are as all others.

    A step that reads the network's input, or makes its output, is no part of a coarse chain.
    """
    named = {str(i): step for i, step in enumerate(steps)}
    return nn.Sequential(OrderedDict({"first": nn.Identity(), **named, "last": nn.Identity()}))


@final
class LayerParallel(nn.Module):
    """Euler steps of x' = φ_i(x) on [0, Tf] that run in parallel, with TorchBraid's signature.

    x_{i+1} = x_i + dt φ_i(x_i), dt = Tf / N, N = ``local_num_steps`` × ranks, solved by
    multigrid; x and the answer have one shape. Layers around it are the user's own: on ranks,
    all hold them and give the same x, so seed all ranks alike.

    Parameters are called ``steps.0.block.weight`` and so on, and are the same objects before and
    after the first call, so that an optimizer made before it trains them. On ranks all build all
    layers; the first call gives them rank 0's weights, and leaves each rank its own layers, which
    is all that an optimizer made before still changes.
    Checkpoints that ranks wrote of their own layers load afterwards, or with ``example_inputs``.

    Args:
        comm: as for :func:`pararealize.pararealize`; None is one process.
        basic_block: makes φ_i, a new one on every call.
        local_num_steps: layers for each rank.
        Tf: the end of time.
        slices: pieces that run in parallel: by default one a rank, or in one process one for
            each interval of the coarse level, up to 16. Results depend on it, not on the ranks.
        example_inputs: ``(x,)``, to be built at once and not on the first call.
        options: ``max_levels``, ``cfactor``, ``max_iters``, ``max_fwd_iters``, ``max_bwd_iters``,
            ``num_relax``, ``skip_downcycle``, ``fmg``, ``storage`` and ``tol``, with TorchBraid's
            meanings, and what else :class:`pararealize.MGRIT` takes.

    Raises:
        MethodError: an option is unknown or has a wrong value, or there are no layers.

    Source: Günther, Ruthotto, Schroder, Cyr and Gauger, "Layer-Parallel Training of Deep Residual
    Neural Networks", SIAM J. Math. Data Sci. 2 (2020), arXiv 1812.04352.

    >>> import torch
    >>> from pararealize.layers import LayerParallel
    >>> deep = LayerParallel(None, lambda: nn.Linear(4, 4), 8, 1.0, cfactor=2)
    >>> deep(torch.ones(3, 4)).shape
    torch.Size([3, 4])

    """

    steps: nn.Sequential | ParallelNetwork

    def __init__(
        self,
        comm: Any,
        basic_block: Callable[[], nn.Module],
        local_num_steps: int,
        Tf: float,  # noqa: N803  TorchBraid's name
        *,
        slices: int | None = None,
        example_inputs: Sequence[Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        chosen = translate(options)
        self._transport = None if comm is None else connect(comm)
        ranks = 1 if self._transport is None else self._transport.size
        count = _layers(local_num_steps, Tf) * ranks
        self.dt = Tf / count
        self.slices = _slices(count, ranks, chosen) if slices is None else slices
        _check_slices(self.slices, count, ranks)
        chosen.setdefault("coarsening", min(COARSEST, max(2, count // self.slices)))
        self.method = MGRIT(**chosen)
        self.steps = chain_of(EulerStep(basic_block(), self.dt) for _ in range(count))
        if example_inputs is not None:
            self._build(*example_inputs)

    def forward(self, x: Tensor) -> Tensor:
        """The state at time Tf, of that at time 0; all ranks call it with the same one."""
        if not isinstance(self.steps, ParallelNetwork):
            self._build(x)
        answer: Tensor = self.steps(x)
        return answer

    def _build(self, x: Tensor) -> None:
        """Compile the steps, cut into slices of equally many, and go on with their parameters."""
        count = sum(isinstance(step, EulerStep) for step in self.steps.children())
        ends = [j * count // self.slices - 1 for j in range(1, self.slices)]
        net = pararealize(
            self.steps,
            self.slices,
            method=self.method,
            example_inputs=(x.detach(),),
            interfaces=[str(end) for end in ends] or None,
            comm=self._transport,
        )
        _keep(self.steps.state_dict(keep_vars=True), net)
        self.steps = net

    @property
    def network(self) -> ParallelNetwork:
        """What runs: its plan, report, and norms of gradients over all ranks.

        Raises:
            MethodError: it has not been built.

        """
        if isinstance(self.steps, ParallelNetwork):
            return self.steps
        raise MethodError("call it once, or write LayerParallel(..., example_inputs=(x,)).")

    def to_serial(self) -> nn.Sequential:
        """A copy of the whole chain with today's weights, ``nn.Sequential``; all ranks call it."""
        built = isinstance(self.steps, ParallelNetwork)
        whole = self.network.to_serial() if built else copy.deepcopy(self.steps)
        return nn.Sequential(*(s for s in whole.children() if isinstance(s, EulerStep)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Leave out what other ranks hold, so that the whole chain's checkpoint loads."""
        if isinstance(self.steps, ParallelNetwork):
            for name in self.steps.names - self.steps.state_dict().keys():
                state_dict.pop(f"{prefix}steps.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """The method in a line."""
        return f"dt={self.dt}, slices={self.slices}, {self.method}"


def _layers(local_num_steps: Any, horizon: float) -> int:
    if not is_count(local_num_steps, 1) or not horizon > 0:
        raise MethodError(
            f"local_num_steps={local_num_steps!r}, Tf={horizon!r}: expected at least one layer a "
            "rank and a time above 0."
        )
    return int(local_num_steps)


def _slices(count: int, ranks: int, chosen: Mapping[str, Any]) -> int:
    """One slice a rank; in one process one for each interval, at least two and at most 16."""
    if ranks > 1:
        return ranks
    factor = chosen.get("coarsening", COARSEST)
    first = factor[0] if isinstance(factor, (tuple, list)) and factor else factor
    return min(count, MOST, max(2, count // first if isinstance(first, int) and first > 0 else 0))


def _check_slices(slices: Any, count: int, ranks: int) -> None:
    if not is_count(slices, ranks) or slices > count:
        raise MethodError(
            f"slices={slices!r}: expected an integer from {ranks}, one for each rank, to {count}, "
            "one for each layer."
        )


def _keep(own: Mapping[str, Any], net: ParallelNetwork) -> None:
    """Make ``net`` hold the tensors that it was compiled from, with the weights of rank 0."""
    held = net.state_dict(keep_vars=True)
    # Tensors that were made in inference mode cannot be trained; their copies can.
    kept = {n: t for n, t in own.items() if isinstance(t, Tensor) and not t.is_inference()}
    kept = {name: kept[name] for name in held if name in kept}
    for name, mine in kept.items():
        if not torch.equal(mine, held[name]):
            with torch.no_grad():
                mine.copy_(held[name])
    net.load_state_dict({**held, **kept}, assign=True)
