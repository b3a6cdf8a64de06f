"""Architectures: small networks of ``transformers``, one a family, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from pararealize.cli.zoos import import_torchvision
from pararealize.errors import ModelSpecError
from studies.subjects import Inputs, another_batch, another_size

#: Numbers that the configurations of most families call by the same names.
COMMON: Mapping[str, Any] = {
    **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2},
    **{"intermediate_size": 32, "max_position_embeddings": 64},
}
#: Of decoders with grouped queries.
GROUPED: Mapping[str, Any] = {**COMMON, "num_key_value_heads": 1}
#: Of encoders with decoders.
BOTH: Mapping[str, Any] = {
    **{"vocab_size": 50, "d_model": 16, "encoder_layers": 4, "decoder_layers": 4},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32},
    **{"decoder_ffn_dim": 32, "max_position_embeddings": 64},
}
#: Of networks of images.
IMAGES: Mapping[str, Any] = {
    **{"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2},
    **{"intermediate_size": 32, "image_size": 32, "patch_size": 8},
}
#: Tokens that mean something, within the small vocabulary.
MARKS: Mapping[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
#: Of networks of sounds.
SOUNDS: Mapping[str, Any] = {
    **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2},
    **{"intermediate_size": 32, "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8)},
    **{"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0},
    **{"mask_feature_prob": 0.0, "num_feat_extract_layers": 2},
}


def tokens() -> dict[str, Tensor]:
    """Two sentences of seven words."""
    return {"input_ids": torch.randint(3, 50, (2, 7))}


def pairs() -> dict[str, Tensor]:
    """Sentences with their translations."""
    return {**tokens(), "decoder_input_ids": torch.randint(3, 50, (2, 5))}


def images(size: int = 32) -> dict[str, Tensor]:
    """Two images."""
    return {"pixel_values": torch.randn(2, 3, size, size)}


def sounds() -> dict[str, Tensor]:
    """Two sounds."""
    return {"input_values": torch.randn(2, 400)}


@dataclass(frozen=True)
class Architecture:
    """A class of ``transformers``, its configuration's class and numbers, and one call's inputs."""

    model: str
    config: str
    numbers: Mapping[str, Any]
    inputs: Callable[[], dict[str, Tensor]] = tokens
    dtype: torch.dtype = torch.float64

    def build(self) -> tuple[nn.Module, Inputs]:
        """The network in float64 with random weights, and the arguments of one call."""
        with suppress(ModelSpecError):
            import_torchvision()  # transformers imports it
        transformers = import_module("transformers")
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.numbers)
        model = getattr(transformers, self.model)(config).double()
        given = {k: v.double() if v.is_floating_point() else v for k, v in self.inputs().items()}
        return model, given

    def others(self, given: Inputs) -> Mapping[str, Inputs]:
        """One sample more, and what is longer or larger."""
        return {"batch": another_batch(given), "size": another_size(given)}

    def options(self) -> Inputs:
        """Nothing."""
        return {}


def _decoder(name: str, numbers: Mapping[str, Any], **more: Any) -> Architecture:
    return Architecture(f"{name}ForCausalLM", f"{name}Config", {**numbers, **MARKS, **more})


def _encoder(name: str, numbers: Mapping[str, Any] = COMMON, **more: Any) -> Architecture:
    return Architecture(f"{name}Model", f"{name}Config", {**numbers, **more})


def _image(name: str, numbers: Mapping[str, Any] = IMAGES, **more: Any) -> Architecture:
    return Architecture(f"{name}Model", f"{name}Config", {**numbers, **more}, images)


def _pair(model: str, config: str, **more: Any) -> Architecture:
    return Architecture(
        model, config, {**BOTH, **MARKS, "decoder_start_token_id": 1, **more}, pairs
    )


#: The old names of a decoder's numbers.
OLD: Mapping[str, Any] = {"n_embd": 16, "n_layer": 6, "n_head": 2, "vocab_size": 50}
STAGES: Mapping[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 8, 16, 16]}

ARCHITECTURES: Mapping[str, Architecture] = {
    "BERT": _encoder("Bert"),
    "RoBERTa": Architecture("RobertaForMaskedLM", "RobertaConfig", COMMON),
    "ELECTRA": _encoder("Electra", embedding_size=8),
    "DistilBERT": _encoder(
        "DistilBert", {}, vocab_size=50, dim=16, n_layers=6, n_heads=2, hidden_dim=32
    ),
    "ALBERT": _encoder("Albert", embedding_size=8),
    "ALBERT, 2 groups": _encoder("Albert", embedding_size=8, num_hidden_groups=2),
    "DeBERTa": _encoder("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "DeBERTa v2": _encoder("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "MPNet": _encoder("MPNet"),
    "XLNet": _encoder("XLNet", {}, vocab_size=50, d_model=16, n_layer=6, n_head=2, d_inner=32),
    "Longformer": _encoder("Longformer", attention_window=4),
    "Nystromformer": _encoder("Nystromformer", num_landmarks=7, segment_means_seq_len=7),
    "Funnel": _encoder(
        "Funnel",
        {},
        vocab_size=50,
        d_model=16,
        n_head=2,
        d_head=8,
        d_inner=32,
        block_sizes=[2, 2, 2],
    ),
    "CTRL": _encoder(
        "CTRL", {}, vocab_size=50, n_embd=16, n_layer=6, n_head=2, dff=32, n_positions=64
    ),
    "GPT": _encoder("OpenAIGPT", OLD),
    "GPT-2": Architecture("GPT2LMHeadModel", "GPT2Config", {**OLD, **MARKS}),
    "GPT-Neo": _decoder(
        "GPTNeo",
        {},
        vocab_size=50,
        hidden_size=16,
        num_layers=4,
        num_heads=2,
        attention_types=[[["global", "local"], 2]],
    ),
    "GPT-NeoX": _decoder("GPTNeoX", COMMON),
    "GPT-J": _decoder("GPTJ", OLD, rotary_dim=4, n_positions=64),
    "OPT": _decoder("OPT", COMMON, ffn_dim=32, word_embed_proj_dim=16),
    "BLOOM": _decoder("Bloom", {}, vocab_size=50, hidden_size=16, n_layer=6, n_head=2),
    "MPT": _decoder("Mpt", {}, vocab_size=50, d_model=16, n_layers=6, n_heads=2, max_seq_len=64),
    "Falcon": _decoder("Falcon", COMMON),
    "Llama": _decoder("Llama", GROUPED),
    "Mistral": _decoder("Mistral", GROUPED),
    "Mixtral": _decoder("Mixtral", GROUPED, num_local_experts=2, experts_implementation="eager"),
    "Qwen2": _decoder("Qwen2", GROUPED),
    "Qwen3": _decoder("Qwen3", GROUPED, head_dim=8),
    "Gemma": _decoder("Gemma", GROUPED, head_dim=8),
    "Gemma 2": _decoder("Gemma2", GROUPED, head_dim=8, sliding_window=4),
    "Phi": _decoder("Phi", COMMON),
    "RWKV": _decoder(
        "Rwkv",
        {},
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=6,
        context_length=16,
        attention_hidden_size=16,
        intermediate_size=32,
    ),
    "Mamba": _decoder(
        "Mamba", {}, vocab_size=50, hidden_size=16, num_hidden_layers=6, state_size=4
    ),
    "T5": Architecture(
        "T5Model",
        "T5Config",
        {
            "vocab_size": 50,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 4,
            "num_heads": 2,
            **MARKS,
            "decoder_start_token_id": 1,
        },
        pairs,
    ),
    "BART": _pair("BartForConditionalGeneration", "BartConfig"),
    "Marian": _pair("MarianMTModel", "MarianConfig"),
    "Pegasus": _pair("PegasusModel", "PegasusConfig"),
    "Whisper": Architecture(
        "WhisperModel",
        "WhisperConfig",
        {
            **BOTH,
            **MARKS,
            "decoder_start_token_id": 1,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 20,
        },
        lambda: {
            "input_features": torch.randn(2, 8, 20),
            "decoder_input_ids": torch.randint(3, 50, (2, 5)),
        },
    ),
    "ViT": _image("ViT"),
    "DeiT": _image("DeiT"),
    "BEiT": _image("Beit"),
    "DINOv2": _image("Dinov2", mlp_ratio=2),
    "Swin": _image(
        "Swin",
        {},
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2, 2],
        num_heads=[1, 2, 2],
        window_size=4,
    ),
    "SegFormer": Architecture(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {**STAGES, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8},
        lambda: images(64),
    ),
    "ConvNeXt": _image("ConvNext", STAGES),
    "ResNet": _image("ResNet", STAGES, embedding_size=8, layer_type="basic"),
    "CLIP text": Architecture("CLIPTextModel", "CLIPTextConfig", {**COMMON, **MARKS}),
    "CLIP vision": Architecture("CLIPVisionModel", "CLIPVisionConfig", IMAGES, images),
    "Wav2Vec2": Architecture("Wav2Vec2Model", "Wav2Vec2Config", SOUNDS, sounds),
    "HuBERT": Architecture("HubertModel", "HubertConfig", SOUNDS, sounds),
    "Perceiver": Architecture(
        "PerceiverModel",
        "PerceiverConfig",
        {
            "d_latents": 16,
            "d_model": 16,
            "num_latents": 8,
            "num_blocks": 1,
            "num_self_attends_per_block": 4,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
        },
        lambda: {"inputs": torch.randn(2, 12, 16)},
    ),
}
