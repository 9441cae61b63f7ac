"""The network whose frozen features a discriminator reads (projected GANs, arXiv 2111.01007)."""

from copy import deepcopy
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["FeatureNetwork"]


class FeatureNetwork(nn.Module):
    """A small residual classifier of 32 px images; its maps of 16, 8 and 4 px are what is read."""

    widths = (64, 128, 256)
    """Channels of the maps."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = (32, *self.widths)
        self.stem = _layer(channels, widths[0])
        self.down = nn.ModuleList(_layer(below, above, stride=2) for below, above in pairwise(widths))
        self.residual = nn.ModuleList(_layer(width, width) for width in self.widths[:-1])
        self.output = nn.Linear(widths[-1], num_classes)

    def maps(self, images: Float[Tensor, "n channels 32 32"]) -> list[Tensor]:
        """Return the maps of images in [-1, 1], from 16 px to 4 px."""
        x, found = self.stem(images), []
        for i, down in enumerate(self.down):
            x = down(x)
            if i < len(self.residual):
                x = x + self.residual[i](x)
            found.append(x)
        return found

    def logits(self, last: Tensor) -> Tensor:
        """Return the logits that follow from the last map."""
        logits: Tensor = self.output(F.dropout(last.mean((2, 3)), 0.2, self.training))
        return logits

    def forward(self, images: Float[Tensor, "n channels 32 32"]) -> Float[Tensor, "n k"]:
        """Return the logits of images in [0, 1]."""
        return self.logits(self.maps(images * 2 - 1)[-1])

    def folded(self) -> "FeatureNetwork":
        """Return a frozen copy whose normalizations are folded into its convolutions."""
        copy = deepcopy(self).eval().requires_grad_(False)
        for layer in [copy.stem, *copy.down, *copy.residual]:
            layer[0], layer[1] = fuse_conv_bn_eval(layer[0], layer[1]), nn.Identity()
        return copy


def _layer(below: int, above: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(below, above, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(above), nn.ReLU())
