"""The closed-form attack: where a linear layer with a bias reads the image, its gradient holds the image."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.gradients import Gradients

__all__ = ["find_first_linear", "invert_first_linear"]


@torch.no_grad()
def find_first_linear(model: nn.Module, image_shape: tuple[int, int, int]) -> str | None:
    """Return the name of the biased linear layer that reads the flattened image, or None.

    Args:
        model: a victim, on any device and in any mode; it is copied.
        image_shape: (c, h, w) of its images.
    """
    probe = torch.rand((2, *image_shape), generator=torch.Generator().manual_seed(0))
    copied = copy.deepcopy(model).cpu().float().eval()
    found: list[str] = []

    def notice(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if isinstance(inputs[0], Tensor) and torch.equal(inputs[0].reshape(2, -1), probe.flatten(1)):
                found.append(name)

        return hook

    for name, module in copied.named_modules():
        if type(module) is nn.Linear and module.bias is not None:
            module.register_forward_pre_hook(notice(name))
    copied(probe)
    return found[0] if found else None


def invert_first_linear(
    shared: Gradients, layer: str, image_shape: tuple[int, int, int]
) -> Float[Tensor, "c h w"]:
    """Return the image x of a single-image gradient, in [0, 1].

    Every row of the layer's gradient is ∂L/∂W[i] = ∂L/∂b[i] · x (Balunović et al., Bayesian Framework for
    Gradient Leakage, ICLR 2022, which divides one row by its bias). All rows are fitted by least squares,
    x = Σᵢ b[i] W[i] / Σᵢ b[i]², which is the same of a clean gradient and averages noise; coordinates
    that are zero, pruned perhaps, are left out.
    """
    weight, bias = shared[f"{layer}.weight"].double(), shared[f"{layer}.bias"].double()[:, None]
    there = weight != 0
    x = (bias * weight).sum(0) / (bias.square() * there).sum(0).clamp_min(1e-300)
    image: Tensor = x.view(image_shape).clamp(0, 1).to(shared[f"{layer}.weight"])
    return image
