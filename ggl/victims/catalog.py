"""Victims and the losses that clients minimize, by name; none is imported before it is asked for."""

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ggl.base.errors import InputError
from ggl.base.registry import Registry

if TYPE_CHECKING:
    from ggl.victims.base import VictimBuilder

__all__ = ["check_victim_name", "losses", "register_loss", "register_victim", "victims"]

FILES = {".pt", ".pth", ".ts", ".torchscript", ".jit", ".safetensors", ".onnx", ".py"}
"""Suffixes of files, which no victim is named by."""

LISTED = {
    "convnet": (
        "ggl.victims.convnet:convnet",
        "ReLU convolutional network of FedAvg: two 5x5 convolutions, 512 hidden units.",
    ),
    "lenet": (
        "ggl.victims.lenet:lenet",
        "Sigmoid LeNet of DLG and iDLG: three 5x5 convolutions, uniform initialization.",
    ),
    "mlp": (
        "ggl.victims.mlp:mlp",
        "Multilayer perceptron of FedAvg: two hidden layers of 200 ReLU units.",
    ),
    "mlp-1024": (
        "ggl.victims.mlp:mlp_1024",
        "Multilayer perceptron of PRECODE (arXiv 2108.04725): two hidden layers of 1,024 ReLU units.",
    ),
    "resnet18": (
        "ggl.victims.resnet:resnet18",
        "ResNet-18 for small images: 3x3 stem, no max pooling, BatchNorm.",
    ),
    "resnet18-imagenet": (
        "ggl.victims.resnet:resnet18_imagenet",
        "ResNet-18 for large images: 7x7 stem and max pooling, takes torchvision's weights.",
    ),
    "resnet18-groupnorm": (
        "ggl.victims.resnet:resnet18_groupnorm",
        "ResNet-18 for small images with GroupNorm of 32 groups (arXiv 1803.08494).",
    ),
    "vit": (
        "ggl.victims.vit:vit",
        "Small vision transformer: patches of 4 pixels, width 128, 4 blocks of 4 heads.",
    ),
}

victims: "Registry[VictimBuilder]" = Registry("victim", "ggl.victims", LISTED)
register_victim = victims.register


def check_victim_name(name: str) -> None:
    """Raise `InputError` for a file and `UnknownNameError` for a name of nothing; nothing is imported."""
    if PurePath(name).suffix in FILES:
        raise InputError(
            f"victim {name!r}: expected a name or package.module:function, found a file; one that "
            "torch.jit.save wrote runs code of its own, and is not read: give the function that builds the "
            "network, and its weights with --victim-weights"
        )
    victims.check(name)


LOSSES = {
    "cross-entropy": (
        "ggl.victims.losses:CrossEntropy",
        "Cross-entropy of the softmax; smoothing spreads labels, weights weigh classes.",
    ),
    "bce": (
        "ggl.victims.losses:BinaryCrossEntropy",
        "Cross-entropy of a sigmoid for each output: of one logit, or of many labels.",
    ),
    "nll": (
        "ggl.victims.losses:NegativeLogLikelihood",
        "Minus the log-probability of the label, of a victim that returns log-probabilities.",
    ),
    "focal": (
        "ggl.victims.losses:Focal",
        "Cross-entropy that counts fitted images less, -(1 - p)^γ log p.",
    ),
    "mse": (
        "ggl.victims.losses:SquaredError",
        "Squared error to the one-hot label, the mean over outputs; of one output to 0 or 1.",
    ),
}

losses: "Registry[Any]" = Registry("loss", "ggl.losses", LOSSES)
register_loss = losses.register
