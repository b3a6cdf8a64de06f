"""Plain PyTorch networks whose depth is worth turning into parallelism."""

from .gru import SequenceClassifier, gru, implicit_gru
from .odenet import ConvStep, DenseStep, ODENet, odenet
from .resnet import PreActBottleneck, ResNet, resnet, resnet56, resnet164, resnet1001
from .vgg import VGG, vgg11, vgg13, vgg16, vgg19

__all__ = [
    "VGG",
    "ConvStep",
    "DenseStep",
    "ODENet",
    "PreActBottleneck",
    "ResNet",
    "SequenceClassifier",
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
]
