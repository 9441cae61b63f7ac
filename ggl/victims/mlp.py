"""The multilayer perceptron of federated averaging."""

from jaxtyping import Float
from torch import Tensor, nn

from ggl.victims.base import Victim, check_image_size

__all__ = ["MLP", "mlp", "mlp_1024"]

HIDDEN = 200


class MLP(Victim):
    """Two hidden layers of ReLU units, 200 each where `hidden` says no other, then a linear head.

    The "2NN" of McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data (arXiv 1602.05629, section 3): 199,210 parameters on 28-pixel grey images of 10 classes.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * image_size * image_size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.fc = nn.Linear(hidden, num_classes)

    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the second hidden layer's activations, (n, hidden)."""
        features: Tensor = self.body(x)
        return features


def mlp(*, in_channels: int, num_classes: int, image_size: int) -> MLP:
    """Multilayer perceptron of FedAvg: two hidden layers of 200 ReLU units."""
    check_image_size("mlp", image_size)
    return MLP(in_channels, num_classes, image_size)


def mlp_1024(*, in_channels: int, num_classes: int, image_size: int) -> MLP:
    """Multilayer perceptron of PRECODE (arXiv 2108.04725): two hidden layers of 1,024 ReLU units."""
    check_image_size("mlp-1024", image_size)
    return MLP(in_channels, num_classes, image_size, hidden=1024)
