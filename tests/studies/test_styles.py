"""Networks as people write them compile by the plain line, and equal the originals."""

from importlib.util import find_spec

import pytest

from studies.plain_line import fare

pytestmark = [
    pytest.mark.skipif(find_spec("einops") is None, reason="einops is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
#: Cheap ones; those of other tests and the others are compiled by ``examples/coverage.py``.
NAMES = (
    *("PixelCNN, masked weights", "WGAN critic, spectral norm", "siamese", "hypernetwork"),
    *("windows, einops of sizes", "stochastic depth", "highway", "checkpointed blocks"),
    *("packed LSTM", "RNN by hand, state from sizes", "CTC, loss inside", "nanoGPT"),
    *(
        "mixture of experts",
        "memory network",
        "universal transformer",
        "GIN, scatter_add_, readouts",
    ),
    *("PointNet", "VAE, torch.distributions", "layers zipped with times", "denoiser, sinusoids"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_style_is_compiled_by_the_plain_line(name: str) -> None:
    from styles import STYLES  # noqa: PLC0415  which imports einops

    row = fare(name, STYLES[name])
    assert row.outcome == "equal", row.why
    assert row.batch == "equal"
    assert row.size in {"", "equal", "refused"}
    assert row.off < 1e-12


def test_what_lies_between_a_value_and_its_derivative_stays_together() -> None:
    from styles import STYLES  # noqa: PLC0415

    row = fare("score, autograd.grad", STYLES["score, autograd.grad"])
    assert (row.outcome, row.n) == ("advice", 3)
    assert "write n=3 or less" in row.why
