"""Networks whose trained weights packages carry: their form, and the data they are tried on."""

import pytest
import torch

from pararealize import Parareal, pararealize
from studies.carried import LOWEST, RATE, Crepe, folder, tones

pytestmark = pytest.mark.filterwarnings("ignore::pararealize.SlowerThanSerialWarning")


def test_tones_have_the_pitch_that_their_bins_say() -> None:
    frames, bins = tones(20, seed=0)
    assert frames.mean(1).abs().max() < 1e-5
    pitch = 10 * 2 ** ((1997.3794084376191 + 20 * bins) / 1200)
    assert pitch.min() >= LOWEST - 0.01
    for frame, wanted in zip(frames, pitch.tolist(), strict=True):
        spectrum = torch.fft.rfft(frame, 2**16).abs()
        strongest = int(spectrum.argmax()) * RATE / 2**16
        ratio = strongest / wanted  # the tone itself or a harmonic, seen through a short frame
        assert abs(ratio - max(1, round(ratio))) * wanted < RATE / frames.shape[1]


@pytest.mark.parametrize("n", [2, 3])
def test_crepe_is_compiled_exactly(n: int) -> None:
    torch.manual_seed(0)
    model = Crepe((8, 2, 2, 2, 2, 4)).double().eval()
    frames = tones(3, seed=0)[0].double()
    method = Parareal("fine", "difference")
    net = pararealize(model, n, method=method, example_inputs=(frames,)).eval()
    assert torch.equal(net(frames), model(frames))


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as missing:
        folder("no_such_package_of_weights")
    assert missing.value.name == "no_such_package_of_weights"
