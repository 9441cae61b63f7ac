"""The mapping network: from latents and classes to styles (arXiv 1812.04948, 2006.06676)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import WeightsError
from ggl.generators.stylegan2.layers import EqualizedLinear, leaky_relu, normalize
from ggl.generators.stylegan2.tensors import take

__all__ = ["MappingNetwork"]


class MappingNetwork(nn.Module):
    """z, normalized and joined by the normalized embedding of the class, through fully connected layers.

    Built from the tensors `mapping.fc0.weight` and so on, and `mapping.embed.weight` of a
    class-conditional file; how many layers, their widths and the number of classes come from shapes.
    """

    def __init__(self, tensors: Mapping[str, Tensor], lr_multiplier: float = 0.01) -> None:
        super().__init__()
        conditional = "mapping.embed.weight" in tensors
        self.embed = _linear(tensors, "mapping.embed", None, 1.0) if conditional else None
        layers = [_linear(tensors, "mapping.fc0", None, lr_multiplier)]
        while f"mapping.fc{len(layers)}.weight" in tensors:
            width = layers[-1].weight.shape[0]
            layers.append(_linear(tensors, f"mapping.fc{len(layers)}", width, lr_multiplier))
        self.layers = nn.ModuleList(layers)
        embedded = 0 if self.embed is None else self.embed.weight.shape[0]
        self.z_dim = layers[0].weight.shape[1] - embedded
        self.w_dim = layers[-1].weight.shape[0]
        self.num_classes = None if self.embed is None else self.embed.weight.shape[1]
        if self.z_dim < 1:
            raise WeightsError(
                f"expected 'mapping.fc0.weight' of more than {embedded} inputs, the class's embedding, found "
                f"{layers[0].weight.shape[1]}; use a StyleGAN2 or StyleGAN2-ADA skip generator"
            )

    def forward(
        self, z: Float[Tensor, "n z"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n w"]:
        """Return the style vector of each latent, before truncation; `labels` where there are classes."""
        x = normalize(z)
        if self.embed is not None:
            x = torch.cat((x, normalize(self.embed.weight.T[labels] + self.embed.bias)), dim=1)
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return x


def _linear(
    tensors: Mapping[str, Tensor], name: str, inputs: int | None, lr_multiplier: float
) -> EqualizedLinear:
    weight = take(tensors, f"{name}.weight", (None, inputs))
    return EqualizedLinear(weight, take(tensors, f"{name}.bias", (weight.shape[0],)), lr_multiplier)
