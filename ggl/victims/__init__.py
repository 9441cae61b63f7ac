"""Victims: the classifiers whose gradients a client shares."""

from ggl.victims.base import Victim, VictimBuilder, register_victim, victims
from ggl.victims.convnet import ConvNet
from ggl.victims.lenet import LeNet
from ggl.victims.loading import load_victim
from ggl.victims.mlp import MLP
from ggl.victims.resnet import ResNet18
from ggl.victims.vit import ViT

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
