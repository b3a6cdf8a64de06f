"""The tape: adjoints of recorded applications."""

import torch

from pararealize.runtime.multigrid.tape import Tape


def test_what_nothing_depends_on_has_a_zero_adjoint_and_whole_numbers_pass() -> None:
    tape, weight = Tape(), torch.tensor(3.0, requires_grad=True)
    state = (torch.ones(2), torch.ones(2), torch.tensor([1, 2]))

    def evaluate(values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return weight * values[0], torch.zeros(2), values[2]

    made = tape.record(("fine.1", "x"), evaluate, state, [])
    assert not any(leaf.requires_grad for leaf in made)
    adjoint = (torch.ones(2), torch.ones(2), state[2])
    found, (gradient,) = tape.transpose(("fine.1", "x"), adjoint, [weight], retain=False)
    assert [leaf.tolist() for leaf in found] == [[3, 3], [0, 0], [1, 2]]
    assert gradient == 2


def test_only_places_that_are_wanted_are_kept() -> None:
    tape = Tape()
    for value in ("x", "u1.0"):
        tape.record(("fine.1", value), torch.sin, torch.ones(1), [])
    tape.keep({"fine.1": "u1.0", "fine.2": "x"})
    assert list(tape.records) == [("fine.1", "u1.0")]
