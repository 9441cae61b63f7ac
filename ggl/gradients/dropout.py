"""A client's dropout: its masks follow from a seed, which the attacker has not."""

import copy
import math
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.gradients.sampled import Sampled

__all__ = ["SampledDropout", "with_sampled_dropout"]

_CHANNELWISE: dict[type[nn.Module], tuple[int, ...]] = {
    nn.Dropout: (),
    nn.Dropout1d: (3,),
    nn.Dropout2d: (3, 4),
    nn.Dropout3d: (5,),
}
"""The kinds that are sampled, with the dimensions of a batch whose whole channels are dropped; () where
single numbers are."""


class SampledDropout(Sampled):
    """Dropout whose mask is drawn from the layer's noise: x · 1[ε ≥ Φ⁻¹(p)] / (1 - p), ε ~ N(0, 1).

    In eval mode it does nothing. A layer that one forward pass uses several times draws a mask for every use.

    Args:
        p: the chance to be dropped, above 0 and at most 1.
        dims: dimensions that an input of whole channels (n, channels, ...) may have; () drops single numbers.
        inplace: whether the input is overwritten.
    """

    def __init__(self, p: float, dims: tuple[int, ...] = (), *, inplace: bool = False) -> None:
        super().__init__()
        self.p, self.dims, self.inplace = p, dims, inplace
        self.threshold = NormalDist().inv_cdf(p) if p < 1 else math.inf
        self.scale = 1 / (1 - p) if p < 1 else 0.0
        self.uses = 0

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Return what is kept of x, scaled to its expectation.

        Raises:
            InputError: a channel-wise layer reads what torch does not take for a batch of its kind.
        """
        if not self.training:
            return x
        use, self.uses = self.uses, self.uses + 1
        units = self._units(x)
        noise = self.noise(units.to(torch.promote_types(x.dtype, torch.float32)), use)
        kept = (noise >= self.threshold).to(x.dtype) * self.scale
        kept = kept.view(*kept.shape, *[1] * (x.dim() - kept.dim()))
        return x.mul_(kept) if self.inplace else x * kept

    def _units(self, x: Tensor) -> Tensor:
        """Return something of the shape of what is dropped together."""
        if not self.dims:
            return x
        if x.dim() not in self.dims:
            raise InputError(
                f"expected an input of {' or '.join(map(str, self.dims))} dimensions to a dropout of whole "
                f"channels, found shape {tuple(x.shape)}; use the Dropout layer that fits it, or call eval()"
            )
        return x.flatten(2)[..., 0]


def with_sampled_dropout(model: nn.Module) -> nn.Module:
    """Return a copy of the model whose active dropout layers draw their masks by seed.

    What other layers drop by themselves, such as attention, they draw from torch's global random stream:
    `ggl.gradients.sampled.GlobalNoise` seeds that.
    """
    model = copy.deepcopy(model)
    replacements: dict[nn.Module, SampledDropout] = {}
    for module in model.modules():
        if not isinstance(module, nn.modules.dropout._DropoutNd) or not module.training or module.p == 0:
            continue
        if type(module) in _CHANNELWISE:
            dims = _CHANNELWISE[type(module)]
            replacements[module] = SampledDropout(module.p, dims, inplace=module.inplace)
    for module in model.modules():
        for name, child in module._modules.items():
            if child in replacements:
                module._modules[name] = replacements[child]
    if replacements:
        model.register_forward_pre_hook(_begin_pass)
    return model


def _begin_pass(model: nn.Module, _: tuple[object, ...]) -> None:
    """Count the uses of every layer from 0 in each forward pass."""
    for module in model.modules():
        if isinstance(module, SampledDropout):
            module.uses = 0
