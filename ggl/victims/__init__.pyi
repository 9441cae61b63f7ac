from .base import Victim, VictimBuilder
from .catalog import register_victim, victims
from .convnet import ConvNet
from .lenet import LeNet
from .loading import load_victim
from .mlp import MLP
from .resnet import ResNet18
from .vit import ViT

__all__ = [
    "MLP",
    "ConvNet",
    "LeNet",
    "ResNet18",
    "ViT",
    "Victim",
    "VictimBuilder",
    "load_victim",
    "register_victim",
    "victims",
]
