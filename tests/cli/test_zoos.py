"""Models of zoos by name: trained weights, random ones, and none to be had without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pararealize.cli.specs import load_model
from pararealize.cli.zoos import import_torchvision, is_untrained, untrained
from pararealize.errors import ModelSpecError

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="no torchvision")

#: A proxy that nobody listens at: what a machine without a network is like.
NOWHERE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A command that asks for trained weights where there is no network."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "pararealize", "explain", "torchvision:resnet18:DEFAULT"]
    environment = {**os.environ, **NOWHERE, "TORCH_HOME": str(home)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )


@pytest.mark.rest
def test_weights_that_cannot_be_downloaded_are_one_sentence(
    ran: subprocess.CompletedProcess[str],
) -> None:
    assert ran.returncode == 2
    assert "torchvision:resnet18:DEFAULT cannot be downloaded" in ran.stderr
    assert "checkpoints/resnet18-" in ran.stderr
    assert "--weights FILE" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


@pytest.mark.rest
def test_nothing_is_said_of_operators(ran: subprocess.CompletedProcess[str]) -> None:
    assert "operators" not in ran.stderr + ran.stdout


def test_weights_that_were_downloaded_are_used(tmp_path: Path) -> None:
    models = import_torchvision()
    weights = models.get_model_weights("squeezenet1_1")["DEFAULT"]
    state = models.get_model("squeezenet1_1").state_dict()
    state["classifier.1.bias"].fill_(7.0)
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / Path(weights.url).name)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        by_default = load_model("torchvision:squeezenet1_1:DEFAULT")
        by_name = load_model(f"torchvision:squeezenet1_1:{weights.name}")
    finally:
        torch.hub.set_dir(before)
    for model in (by_default, by_name):
        assert bool((model.state_dict()["classifier.1.bias"] == 7.0).all())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("torchvision:resnet18:BEST", "no weights 'BEST': one of DEFAULT, IMAGENET1K_V1"),
        ("torchvision:resnet19", "no model 'resnet19'; near it"),
        ("torchvision:resnet19:DEFAULT", "no model 'resnet19'; near it"),
        ("transformers:no/such/folder", "save_pretrained"),
    ],
)
def test_what_a_zoo_does_not_have(spec: str, said: str) -> None:
    with pytest.raises(ModelSpecError, match=said):
        load_model(spec)


@pytest.mark.skipif(find_spec("timm") is None, reason="no timm")
def test_weights_of_timm_are_known_by_name() -> None:
    with pytest.raises(ModelSpecError, match="resnet18 has no weights 'best': one of DEFAULT, "):
        load_model("timm:resnet18:best")


def test_random_weights_are_told_apart() -> None:
    assert is_untrained("torchvision:resnet18")
    assert is_untrained("timm:resnet18")
    assert not is_untrained("torchvision:resnet18:DEFAULT")
    assert not is_untrained("pararealize.models:resnet56")
    assert not is_untrained("transformers:folder")
    assert "torchvision:resnet18:DEFAULT" in untrained("torchvision:resnet18")


@pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")
def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    import_torchvision()
    from transformers import ViTConfig, ViTForImageClassification  # noqa: PLC0415

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, num_hidden_layers=2, image_size=16, patch_size=8)
    model = ViTForImageClassification(config)
    model.save_pretrained(tmp_path)
    again = load_model(f"transformers:{tmp_path}")
    assert type(again) is ViTForImageClassification
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelSpecError, match="cannot be read"):
        load_model(f"transformers:{tmp_path}")
