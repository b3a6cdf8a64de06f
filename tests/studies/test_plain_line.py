"""Networks of transformers compile by the plain line, and equal the originals."""

from importlib.util import find_spec

import pytest

from pararealize import pararealize
from studies.architectures import ARCHITECTURES
from studies.coverage_table import counts, details
from studies.plain_line import EXACT, Fared, fare

pytestmark = [
    pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
#: One list; groups used several times; two lists and what is drawn between them; stages; outputs
#: collected by hooks; numbers drawn between blocks and caches; traced, with an answer of its own.
NAMES = ("BERT", "ALBERT", "T5", "Swin", "SegFormer", "OPT", "MPNet")
SAMPLE = {"OPT"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.rest] * (name not in SAMPLE)) for name in NAMES],
)
def test_a_network_of_transformers_is_compiled_by_the_plain_line(name: str) -> None:
    row = fare(name, ARCHITECTURES[name])
    assert (row.outcome, row.batch) == ("equal", "equal"), row.why
    assert name in details({("transformers", name): Fared(name, "refused")})


def test_without_inputs_where_the_configuration_says_them() -> None:
    for name in ("GPT-2", "ViT", "BART"):
        model, given = ARCHITECTURES[name].build()
        net = pararealize(model, 3, method=EXACT)
        assert not net.plan.tracing.unverified
        names = {"cache", "past_key_values", "encoder_last_hidden_state"}
        assert {*net(**given)} | names == {*model(**given)} | names


def test_blocks_left_out_at_random_are_refused_with_what_to_write() -> None:
    row = fare("HuBERT", ARCHITECTURES["HuBERT"])
    assert row.outcome == "advice"  # which was followed
    assert "layerdrop" in row.why
    model, given = ARCHITECTURES["HuBERT"].build()
    model.config.layerdrop = 0.0
    assert pararealize(model, 3, method=EXACT, example_kwargs=given).plan.n == 3
    rows = {("transformers", "a"): row, ("transformers", "b"): Fared("b", "equal")}
    assert "| transformers | 2 | 1 | 1 | 1 |" in counts(rows)


def test_a_large_head_counts() -> None:
    model, given = ARCHITECTURES["GPT-2"].build()
    plan = pararealize(model, 2, method=EXACT, example_kwargs=given).plan
    wide = ARCHITECTURES["GPT-2"]
    numbers = {**wide.numbers, "vocab_size": 20_000}
    model, given = type(wide)(wide.model, wide.config, numbers, wide.inputs).build()
    large = pararealize(model, 2, method=EXACT, example_kwargs=given).plan
    added = large.head_seconds - plan.head_seconds
    moved = 8 * 14 * (20_000 - 50)  # scores of 14 words in float64, which take longest
    assert added == pytest.approx(moved / large.machine.bytes_per_second, rel=0.01)
    assert large.serial_seconds - plan.serial_seconds >= added
    assert large.parallel_seconds - plan.parallel_seconds >= 0.9 * added
