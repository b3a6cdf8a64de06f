"""Plain PyTorch networks whose depth is worth turning into parallelism."""

from .causal import CausalLM, causal_lm
from .gru import SequenceClassifier, gru, implicit_gru
from .odenet import ConvStep, DenseStep, ODENet, odenet
from .resnet import PreActBottleneck, ResNet, resnet, resnet56, resnet164, resnet1001
from .transformer import TransformerBlock
from .vgg import VGG, vgg11, vgg13, vgg16, vgg19
from .vit import ViT, vit
from .warpnet import WarpNet, warp, warpnet

__all__ = [
    "VGG",
    "CausalLM",
    "ConvStep",
    "DenseStep",
    "ODENet",
    "PreActBottleneck",
    "ResNet",
    "SequenceClassifier",
    "TransformerBlock",
    "ViT",
    "WarpNet",
    "causal_lm",
    "gru",
    "implicit_gru",
    "odenet",
    "resnet",
    "resnet56",
    "resnet164",
    "resnet1001",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vit",
    "warp",
    "warpnet",
]
