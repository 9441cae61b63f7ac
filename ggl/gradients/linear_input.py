"""The input of a linear layer, read off what it shares."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ggl.gradients import Gradients, Step

__all__ = ["TINY", "LinearInput", "linear_input"]

TINY = 1e-30


def linear_input(weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"]) -> Float[Tensor, " i"]:
    """Return what a linear layer read of one image, from the gradients of its weight and bias.

    Every row of them is ∂L/∂W[i] = ∂L/∂b[i] · x (Balunović et al., Bayesian Framework for Gradient Leakage,
    ICLR 2022, which divides one row by its bias). All rows are fitted by least squares,
    x = Σᵢ b[i] W[i] / Σᵢ b[i]², coordinates of W that are zero, pruned perhaps, left out.
    """
    square = (bias[:, None].square() * (weight != 0)).sum(0)
    return (bias[:, None] * weight).sum(0) / square.clamp_min(TINY)


@dataclass(frozen=True)
class LinearInput(Step):
    """Compare what a linear layer read, and nothing else: exact for one image, whatever noise came after it.

    Of a larger batch it is a mixture that depends on the later layers too.
    """

    layer: str

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the layer's input, (i,), under its own name."""
        weight, bias = gradients[f"{self.layer}.weight"], gradients[f"{self.layer}.bias"]
        return {self.layer: linear_input(weight, bias)}
