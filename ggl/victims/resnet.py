"""ResNet-18 in three forms: CIFAR stem, ImageNet stem, and GroupNorm instead of BatchNorm."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from ggl.victims.base import Victim, check_image_size

__all__ = ["ResNet18", "resnet18", "resnet18_groupnorm", "resnet18_imagenet"]

GROUPS = 32
IMAGENET_STRIDE = 32


class ResNet18(Victim, ResNet):
    """Torchvision's ResNet-18 with a stem and a norm of choice; its parameter names are torchvision's.

    He et al., Deep Residual Learning for Image Recognition (arXiv 1512.03385). Activations are not in
    place: what a hook keeps stays as it was.

    Args:
        stem: the first convolution, to 64 channels.
        pool: what follows the stem's activation.
        num_classes: the number of logits.
        norm_layer: makes the norm of a number of channels.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        pool: nn.Module,
        num_classes: int,
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes, norm_layer=norm_layer)
        self.conv1 = stem
        self.add_module("maxpool", pool)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the mean over positions of the last block, (n, 512)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        pooled: Tensor = self.avgpool(x)
        return pooled.flatten(1)


def _cifar_stem(in_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels)


def resnet18(*, in_channels: int, num_classes: int, image_size: int) -> ResNet18:
    """ResNet-18 for small images: 3x3 stem, no max pooling, BatchNorm."""
    check_image_size("resnet18", image_size)
    return ResNet18(_cifar_stem(in_channels), nn.Identity(), num_classes)


def resnet18_imagenet(*, in_channels: int, num_classes: int, image_size: int) -> ResNet18:
    """ResNet-18 for large images: 7x7 stem and max pooling, takes torchvision's weights."""
    check_image_size("resnet18-imagenet", image_size, at_least=IMAGENET_STRIDE)
    stem = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return ResNet18(stem, nn.MaxPool2d(3, stride=2, padding=1), num_classes)


def resnet18_groupnorm(*, in_channels: int, num_classes: int, image_size: int) -> ResNet18:
    """ResNet-18 for small images with GroupNorm of 32 groups (arXiv 1803.08494)."""
    check_image_size("resnet18-groupnorm", image_size)
    return ResNet18(_cifar_stem(in_channels), nn.Identity(), num_classes, _group_norm)
