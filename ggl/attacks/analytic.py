"""The closed-form attack: where a linear layer with a bias reads the image, its gradient holds the image."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.gradients import Gradients
from ggl.gradients.linear_input import TINY, linear_input

__all__ = [
    "find_first_linear",
    "first_linear_fits",
]


@torch.no_grad()
def find_first_linear(model: nn.Module, image_shape: tuple[int, int, int]) -> str | None:
    """Return the name of the trained linear layer with a bias that reads the flattened image, or None.

    Args:
        model: a victim, on any device and in any mode; it is copied.
        image_shape: (c, h, w) of its images.
    """
    probe = torch.rand((2, *image_shape), generator=torch.Generator().manual_seed(0))
    copied = copy.deepcopy(model).cpu().float().eval()
    found: list[str] = []

    def notice(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs and torch.equal(inputs[0].reshape(2, -1), probe.flatten(1)):
                found.append(name)

        return hook

    for name, module in copied.named_modules():
        trained = type(module) is nn.Linear and module.bias is not None and module.bias.requires_grad
        if trained and module.weight.requires_grad:
            module.register_forward_pre_hook(notice(name))
    copied(probe)
    return found[0] if found else None


def first_linear_fits(
    shared: Gradients, layer: str, image_shape: tuple[int, int, int]
) -> Float[Tensor, "fits c h w"]:
    """Return what the image of a single-image gradient may be, in [0, 1]; of a clean one all are the image.

    Each fit is right for another defense: least squares over what is not zero (pruning); over everything
    (rounding); and the first singular vector of the weight's gradient alone, its brightest pixel at 1 (noise
    in the bias shrinks the other two; clipping by layer changes their scale).
    """
    weight, bias = shared[f"{layer}.weight"].double(), shared[f"{layer}.bias"].double()
    pruned = linear_input(weight, bias)
    plain = bias @ weight / bias.square().sum().clamp_min(TINY)
    vector = torch.linalg.svd(weight, full_matrices=False).Vh[0]
    vector = vector * (1.0 if vector.sum() >= 0 else -1.0)
    fits = [pruned, plain, vector / vector.max().clamp_min(TINY)]
    stacked: Tensor = torch.stack(fits).view(-1, *image_shape).clamp(0, 1).to(shared[f"{layer}.weight"])
    return stacked
