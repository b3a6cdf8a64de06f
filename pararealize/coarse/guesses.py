"""Guesses: build the networks that guess the interfaces' states from the network's input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from itertools import islice

import torch
from torch import nn

from pararealize.coarse.layout import is_series
from pararealize.coarse.pruning import Pruning, Selection, prune, selected_costs
from pararealize.coarse.setting import Setting, input_names, like, main_input, once_a_kind
from pararealize.coarse.skipping import Skipping
from pararealize.ir.chain import Chain, Cost, Partition, State, TensorSpec
from pararealize.ir.decisions import Guess
from pararealize.ir.methods import Parareal
from pararealize.ir.target import Target
from pararealize.propagators.fresh import Fresh
from pararealize.propagators.guess_networks import POSITIONS, generic_guess, map_kinds, token_guess

#: A guess may cost this share of the network, as the subnetwork behind it waits for it; one of the
#: best kind, which takes more than twice as long as the next, no more than this part of it.
GUESS_SHARE, BEST = 0.04, 0.75

#: What networks of the network's own layers keep.
HOW = Pruning(normalisation=True)


def build_guesses(
    partition: Partition,
    setting: Setting,
    method: Parareal,
    used: frozenset[Target],
    chosen: Mapping[int, str] | None = None,
    *,
    priced: bool = False,
) -> dict[int, Guess]:
    """Guess networks C_j of the interfaces where the schedule applies one, by interface.

    A generic network of convolutions where the input and the state are images (of few, or of
    patches, where they cost more than a small share of the network), of low rank where they are
    sequences or vectors; else the network's own layers that change the shape, from the input to
    the interface. ``chosen`` are the kinds that a saved plan has. Where they are only
    ``priced``, like interfaces have the same one.
    """
    if method.guess != "network":
        return {}
    wanted = [j for j in range(1, partition.n) if Target.guess(j) in used]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed + 1)
        places, kinds = {j: partition.bounds[j] for j in wanted}, chosen or {}

        def made(j: int) -> Guess:
            return _guess(setting, places[j], kinds.get(j))

        if not priced:
            return {j: made(j) for j in wanted}
        return once_a_kind({j: _likeness(setting, layer) for j, layer in places.items()}, made)


def guess_costs(setting: Setting, end: int) -> list[Cost | None]:
    """Costs of the guesses of the states before the layers 0 … ``end - 1``.

    The network's input is not guessed; ``None`` stands where no guess is known.
    """
    found: list[Cost | None] = [Cost()]
    own = selected_costs(setting, 0, HOW, copied=False)  # layers are priced where one is asked for
    taken = 0
    for layer in range(1, end):
        guess = _price(setting, layer)
        if guess is None and _has_blocks(setting.chain):
            guess = _skipping(setting).cost(layer)
        elif guess is None:
            _, cost = next(islice(own, layer - 1 - taken, None))
            guess, taken = cost(0), layer
        found.append(guess)
    return found


def _likeness(setting: Setting, layer: int) -> Hashable:
    """What is equal where guesses cost the same: generic ones know the state only."""
    rest = setting.likeness(0, layer) if _price(setting, layer) is None else None
    return *_known(setting, layer), rest


def _price(setting: Setting, layer: int, kind: str | None = None) -> Cost | None:
    """Cost of the generic network that guesses the state before a layer, if there is one."""
    ends = _ends(setting, layer)
    if ends is not None:
        return _cost(setting, *ends, kind or _kind(setting, layer))
    key = "tokens", setting.chain.state(layer)
    return setting.once(key, lambda: setting.price(partial(_network, setting, layer)))


def _cost(setting: Setting, source: TensorSpec, target: TensorSpec, kind: str) -> Cost | None:
    """Cost of a kind of network from the input to a state."""
    return setting.once(
        ("guess", source, target, kind),
        lambda: setting.price(lambda: (generic_guess(source, target, kind), (source,))),
    )


def _ends(setting: Setting, layer: int) -> tuple[TensorSpec, TensorSpec] | None:
    """The network's only input and the state before a layer, where each is one tensor."""
    source, state = main_input(setting.chain), setting.chain.state(layer)
    lone = source is not None and len(state) == 1 and not _has_blocks(setting.chain)
    return (source, state[0]) if lone and source is not None else None


def _known(setting: Setting, layer: int) -> tuple[State, bool]:
    """What a generic network knows: the state, and whether it is a series."""
    state = setting.chain.state(layer)
    return state, is_series(setting, state, layer)


def _guess(setting: Setting, layer: int, maps: str | None) -> Guess:
    """The network that guesses the state before a layer."""
    chain, model = setting.chain, setting.model
    module, _, kind, names = _network(setting, layer, maps)
    if module is not None:
        cost = _price(setting, layer, maps)
        assert cost is not None
        return Guess(kind, cost, like(module, model), names)
    if _has_blocks(chain):
        stem = _skipping(setting).segment(layer)
        return Guess("stem", _skipping(setting).cost(layer), None, stem.inputs, stem)
    kept = HOW.kept(Selection(chain, 0, layer), 0)
    segment = prune(chain, model, 0, layer, kept, HOW)
    cost = chain.profile.cost(segment.operations)
    return Guess("own layers", cost, Fresh(model, segment, bias=True), segment.inputs)


def _network(
    setting: Setting, layer: int, maps: str | None = None
) -> tuple[nn.Module | None, State, str, tuple[str, ...]]:
    """A new generic network where one is known, specs and names of its inputs, and its kind.

    ``maps`` is the kind that guesses maps, where that was decided before.
    """
    chain, ends = setting.chain, _ends(setting, layer)
    if ends is not None:
        maps = maps or _kind(setting, layer)
        module: nn.Module | None = generic_guess(*ends, maps)
        if module is not None:
            kind = "low rank" if isinstance(module, nn.Sequential) else maps
            return module, ends[:1], kind, input_names(chain)
    state = chain.state(layer)
    tokens = _has_blocks(chain) and len(state) == 1
    for name, spec in chain.profile.inputs.items() if tokens else ():
        if isinstance(spec, TensorSpec) and not spec.dtype.is_floating_point:
            tables = (m for m in setting.model.modules() if isinstance(m, nn.Embedding))
            words = max((m.num_embeddings for m in tables), default=0)
            module = token_guess(spec, state[0], words)
            if module is not None:
                return module, (spec,), "tokens", (name,)
    return None, (), "", ()


def _kind(setting: Setting, layer: int) -> str:
    """What guesses the state before a layer: of maps the best that is cheap, or the cheapest."""
    state, series = _known(setting, layer)
    if series:
        return POSITIONS
    ends = _ends(setting, layer)
    assert ends is not None

    def seconds(kind: str) -> float:
        cost = _cost(setting, *ends, kind)
        return 0.0 if cost is None else cost.seconds

    whole = setting.fine.seconds(0, len(setting.chain.layers))
    kinds = map_kinds(*ends)
    shares = dict.fromkeys(kinds, GUESS_SHARE) | {kinds[0]: BEST * GUESS_SHARE}
    cheap = (kind for kind, share in shares.items() if seconds(kind) <= share * whole)
    return setting.once(("maps", state), lambda: next(cheap, None) or min(kinds, key=seconds))


def _has_blocks(chain: Chain) -> bool:
    """Whether the network is traced around a list of blocks."""
    return chain.train.operations[-2].kind == "network"


def _skipping(setting: Setting) -> Skipping:
    return setting.once("skipping", lambda: Skipping.of(setting.chain))
