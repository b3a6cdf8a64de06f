"""Networks on ranks: law 8, what users do, and failures. The programs run under mpiexec."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_ranks import all_of
from local_transport import LocalTransport
from networks import Case, Recipe, Step, assert_equal_steps, compiled, one_step, share_of
from pararealize import Parareal
from rank_checks import PROGRAMS, Check, Verdicts, checks_of, run, start, wait
from sampling import pairwise

#: Seconds within which every rank has to end once something has failed.
LIMIT = 30.0

#: Seconds that starting Python and importing torch may take on a busy machine.
START = 60.0


#: Over gloo on two ranks: a transport knows nothing of what its messages are for, and what two or
#: four ranks do over MPI three do. One rank has none; it and four are threads below.
LAWS = checks_of("laws", [(2, "gloo"), (3, "mpi")])
#: Over gloo again what brings a transport other messages: types, sizes, gatherings, sums, errors.
OVER_GLOO = {
    "accumulates_gradients",
    "captures_pieces",
    "carries_truth_values",
    "clips_gradients",
    "computes_in_bfloat16",
    "gives_gradients_of_inputs",
    "gives_what_autograd_is_asked_for",
    "lets_go_of_what_was_sent",
    "refuses_freed_communicators",
    "scales_gradients",
    "refuses_other_inputs",
    "sends_each_state_once",
    "solves_by_multigrid",
    "takes_weights_of_rank_0",
    "ties_weights",
}
#: What threads for ranks are asked for as well (test_calibrate, emit/test_collect,
#: runtime/runners/test_rank_autograd, layers/test_shared_slices).
ON_THREADS = {
    "calibrates",
    "clips_to_the_bit",
    "gives_what_autograd_is_asked_for",
    "shares_slices_of_time",
}
#: What is the same on ranks as in one process, where other tests ask for it, by what ranks share.
AS_ALONE = {
    "agrees_in_single_precision",
    "chooses_again",
    "keeps_channels_last",
    "runs_uncompiled",
}
USAGE = [
    check
    for check in checks_of("usage", [(2, "gloo"), (2, "mpi"), (3, "mpi")])
    if check.kind == "mpi" or check.name in OVER_GLOO
]
RANDOM = checks_of("random_ranks", [(2, "gloo"), (3, "mpi")])
RECOVERY = checks_of("recovery", [(3, "mpi"), (3, "gloo")])
#: Half of the matrix of ``programs/misuse.py``, which runs as a whole by itself.
MISUSE = checks_of("misuse", [(2, "gloo"), (3, "mpi")])
MESH = checks_of("mesh", [(4, "gloo")])


def only_in_all() -> Iterator[Check]:
    """What is not in a sample: the same over the other engine, on another number of ranks.

    Laws are on both; of mistakes every second over gloo and the others over MPI, as failures are.
    What threads do as well is left out, and what takes four ranks.
    """
    yield from (RANDOM[0], *MESH)
    for each in USAGE:
        again = each.kind == "mpi" and (each.ranks == 3 or each.name in OVER_GLOO)
        if again or each.name in ON_THREADS | AS_ALONE:
            yield each
    over_gloo, over_mpi = MISUSE[: len(MISUSE) // 2], MISUSE[len(MISUSE) // 2 :]
    yield from (*over_gloo[1::2], *over_mpi[::2])
    over_mpi, over_gloo = RECOVERY[: len(RECOVERY) // 2], RECOVERY[len(RECOVERY) // 2 :]
    yield from (*over_gloo[::2], *over_mpi[1::2])


CHECKS = [*LAWS, *USAGE, *RANDOM, *MISUSE, *MESH, *RECOVERY]
REST = frozenset(only_in_all())


@pytest.fixture(scope="session")
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """Of all checks that are selected."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    params = [item.callspec.params for item in items if hasattr(item, "callspec")]
    checks = dict.fromkeys(each["check"] for each in params if "check" in each)
    every = bool(request.config.option.all)
    return Verdicts(list(checks), tmp_path_factory.mktemp("ranks"), every=every)


@pytest.mark.whole
@pytest.mark.parametrize(
    "check",
    [pytest.param(each, marks=[pytest.mark.rest] * (each in REST)) for each in CHECKS],
    ids=lambda each: f"{each.ranks}-{each}",
)
def test_ranks_do_what_one_process_does(check: Check, verdicts: Verdicts) -> None:
    """Law 8 (``programs/laws.py``), and what users do, wrongly as well, and what fails."""
    why = verdicts.of(check)
    if why:
        pytest.fail(why, pytrace=False)


# law 8 in one process


def on_threads(case: Case, ranks: int) -> list[Step]:
    """One step of the case with threads for ranks."""
    models = [case.model() for _ in range(ranks)]

    def work(transport: LocalTransport) -> Step:
        model = models[transport.rank]
        net = compiled(model, case.n, case.method, case.x, case.interfaces, comm=transport)
        return one_step(net, case)

    return all_of(ranks, work)


@pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")
@pytest.mark.parametrize(
    ("family", "sweeps", "correction", "guess", "levels"),
    pairwise(
        ["dense", "skip"], [1, 2, 4], ["residual", "difference"], ["network", "coarse"], [2, 3]
    ),
)
def test_law_8_in_one_process(
    family: str, sweeps: int, correction: str, guess: str, levels: int
) -> None:
    """All on three ranks, which do not divide four subnetworks; two sweeps also on others."""
    method = Parareal("network", correction, sweeps, guess, levels=levels)
    case = Case(Recipe(family, 9, norm="batch"), 4, method)
    wanted = one_step(compiled(case.model(), case.n, case.method, case.x), case)
    for ranks in (1, 2, 3, 4) if sweeps == 2 else (3,):
        steps = on_threads(case, ranks)
        assert sorted(k for s in steps for k in s.gradients if k != "input") == sorted(
            k for k in wanted.gradients if k != "input"
        )
        for step in steps:
            here = share_of(wanted, step)
            assert_equal_steps(step, here, 1e-12)  # only the order of adjoint sums may differ


# failures that nobody catches; those that are caught are in ``programs/recovery.py``, and more of
# both on threads in runtime/runners/test_rank.py

CAUSE = "ValueError: no way back"


@pytest.mark.rest
def test_an_error_ends_all_ranks_and_is_told_once(tmp_path: Path) -> None:
    done = run(2, "failures.py", "backward", "mpi", str(tmp_path), limit=START + LIMIT)
    assert done.code != 0
    assert "rank 1 of 2 failed in the backward pass of subnetwork" in done.text, done.text[-3000:]
    own = done.text.count(f"\n{CAUSE}")  # others say it in their own sentence
    assert own == 1, done.text[-3000:]


def members(kind: str, folder: Path) -> list[subprocess.Popen[str]]:
    """Two ranks over gloo that no launcher watches."""
    command = [sys.executable, str(PROGRAMS / "failures.py"), kind, "gloo", str(folder)]
    return [
        subprocess.Popen(
            [*command, str(rank), "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


#: What the other rank says of one that ended.
LOST = {
    "user": 'rank 1 of 2 stopped; its own message says why (KeyError: "the user\'s own mistake")',
    "killed": "rank 0 of 2 lost rank 1: ended without a word, or was killed",
}


@pytest.mark.rest
@pytest.mark.parametrize("kind", ["user", "killed"])
def test_a_rank_that_ends_is_missed_without_a_launcher(kind: str, tmp_path: Path) -> None:
    ends = [wait(process, START + LIMIT) for process in members(kind, tmp_path)]
    assert all(end.code != 0 for end in ends), kind
    assert LOST[kind] in ends[0].text, ends[0].text[-3000:]


@pytest.mark.rest
def test_ctrl_c_ends_all_ranks(tmp_path: Path) -> None:
    process = start(2, "failures.py", "interrupt", "mpi", str(tmp_path))
    assert process.stdout is not None
    seen = ""
    while "ready" not in seen:
        letter = process.stdout.read(1)
        assert letter, f"ended before it was ready: {seen}"
        seen += letter
    time.sleep(0.2)  # into the step
    os.kill(process.pid, signal.SIGINT)
    done = wait(process, LIMIT)
    assert done.code != 0
    assert done.seconds < LIMIT
