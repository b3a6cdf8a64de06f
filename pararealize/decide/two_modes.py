"""Two modes: coarse networks that answer otherwise in eval mode than they were trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import nn

from pararealize.errors import InaccurateWarning
from pararealize.ir.methods import Parareal
from pararealize.ir.plan import Plan
from pararealize.ir.target import Target
from pararealize.propagators.fresh import normalises_by_batch
from pararealize.propagators.propagator import Propagator


def warn_of_batches(plan: Plan, propagators: Mapping[Target, Propagator], model: nn.Module) -> None:
    """Warn where training normalises by the batch what is corrected by differences.

    F(u) - F(v) takes the mean of each state away by itself in train mode, and one running mean of
    both in eval mode, so that a network that is trained so may answer with much larger errors. Of
    jumps there is one state a sweep, and the subnetwork itself is corrected to what it is.

    Warns:
        InaccurateWarning: the model is in train mode, and some coarse networks do so.

    """
    method = plan.method
    if not (isinstance(method, Parareal) and method.correction == "difference"):
        return
    if not model.training or method.iterations >= plan.n:
        return
    kinds = {(str(p.index), Target.coarse(p.index)): p.coarse for p in plan.pieces}
    for group in plan.groups:
        kinds[f"{group.members} together", Target.coarse(group.index, group.level)] = group.coarse
    copies = {each: kind for each, kind in kinds.items() if kind not in {"none", "fine"}}
    parts = {name: propagators.get(target) for name, target in copies}
    found = [
        name
        for name, part in parts.items()
        if part and any(map(normalises_by_batch, part.called()))
    ]
    if found:
        named = " and ".join(
            dict.fromkeys(repr(k) for (name, _), k in copies.items() if name in found)
        )
        message = (
            f"the coarse networks {named} of subnetworks {', '.join(found)} normalise by the batch "
            "(BatchNorm) and correct by differences of two states: trained like this they may "
            "answer worse in eval mode, by running statistics, than in train mode. Write "
            "Parareal(coarse='network'), whose coarse networks have no batch normalisation, or "
            "correction='residual'; or look at the accuracy in eval mode. A model that is only "
            "used, not trained, is compiled in eval mode: model.eval()."
        )
        warnings.warn(InaccurateWarning(message), stacklevel=3)
