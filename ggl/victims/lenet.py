"""The sigmoid LeNet on which gradient inversion was first shown."""

from jaxtyping import Float
from torch import Tensor, nn

from ggl.victims.base import Victim, check_image_size

__all__ = ["LeNet", "lenet"]

WIDTH = 12
INITIAL_RANGE = 0.5


class LeNet(Victim):
    """Three 5x5 convolutions of 12 channels with sigmoids, then a linear head.

    Zhao et al., iDLG (arXiv 2001.02610), the three-convolution form in its code of the network of Zhu
    et al., DLG (arXiv 1906.08935). Weights and biases start uniform in [-0.5, 0.5].
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, WIDTH, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(WIDTH, WIDTH, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(WIDTH, WIDTH, 5, stride=1, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
        )
        side = -(-image_size // 4)
        self.fc = nn.Linear(WIDTH * side * side, num_classes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL_RANGE, INITIAL_RANGE)

    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the last sigmoid's activations, (n, 12 * ceil(image_size / 4)²)."""
        features: Tensor = self.body(x)
        return features


def lenet(*, in_channels: int, num_classes: int, image_size: int) -> LeNet:
    """Sigmoid LeNet of DLG and iDLG: three 5x5 convolutions, uniform initialization."""
    check_image_size("lenet", image_size)
    return LeNet(in_channels, num_classes, image_size)
