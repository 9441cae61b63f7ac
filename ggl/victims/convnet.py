"""The ReLU convolutional network of federated averaging."""

from jaxtyping import Float
from torch import Tensor, nn

from ggl.victims.base import Victim, check_image_size

__all__ = ["ConvNet", "convnet"]

HIDDEN = 512


class ConvNet(Victim):
    """Two 5x5 convolutions (32, 64), each with ReLU and 2x2 max pooling, then 512 units and a head.

    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data
    (arXiv 1602.05629, section 3): 1,663,370 parameters on 28-pixel grey images of 10 classes.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        side = image_size // 4
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * side * side, HIDDEN),
            nn.ReLU(),
        )
        self.fc = nn.Linear(HIDDEN, num_classes)

    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the hidden layer's activations, (n, 512)."""
        features: Tensor = self.body(x)
        return features


def convnet(*, in_channels: int, num_classes: int, image_size: int) -> ConvNet:
    """ReLU convolutional network of FedAvg: two 5x5 convolutions, 512 hidden units."""
    check_image_size("convnet", image_size)
    return ConvNet(in_channels, num_classes, image_size)
