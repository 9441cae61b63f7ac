"""The mapping network: from latents and classes to styles (arXiv 1812.04948, 2006.06676)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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
        self.embed = _linear(tensors, "mapping.embed", 1.0) if conditional else None
        depth = 1
        while f"mapping.fc{depth}.weight" in tensors:
            depth += 1
        self.layers = nn.ModuleList(_linear(tensors, f"mapping.fc{i}", lr_multiplier) for i in range(depth))
        embedded = 0 if self.embed is None else self.embed.weight.shape[0]
        self.z_dim = take(tensors, "mapping.fc0.weight", (None, None)).shape[1] - embedded
        self.w_dim = take(tensors, f"mapping.fc{depth - 1}.weight", (None, None)).shape[0]
        self.num_classes = None if self.embed is None else self.embed.weight.shape[1]

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


def _linear(tensors: Mapping[str, Tensor], name: str, lr_multiplier: float) -> EqualizedLinear:
    weight = take(tensors, f"{name}.weight", (None, None))
    return EqualizedLinear(weight, take(tensors, f"{name}.bias", (weight.shape[0],)), lr_multiplier)
