"""Early exits of MobileStyleGAN: images of 64 and 128 px at a small part of the whole network's work.

The colors of a picture are decided by the styles of the last layers, so no head on early maps finds them. But
of what an inverse Haar transform gives, the mean over 2x2 pixels is the low band alone: from some map on, the
rest of the network runs on maps that do not grow, on a quarter of the channels, with the weights it has. What
that loses, means of nonlinear layers and the image's details, a fit to the whole network's own pictures
brings back (`ggl.generators.mobilestylegan.distill`).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.weight_files import locate
from ggl.base.weights import load_tensors
from ggl.generators.mobilestylegan.network import (
    START,
    WIDTHS,
    Block,
    Growing,
    Pointwise,
    Separable,
    SynthesisNetwork,
    inverse_haar,
)

__all__ = ["EXITS", "EarlyExit", "fitted_names", "load_early_exit"]

EXITS = (64, 128)
"""Heights and widths in pixels of the images that an early exit makes."""

DETAILS = 128
"""High bands that the last growing map keeps beside its low ones, for the image's details."""


class EarlyExit(Growing):
    """The network from styles to images of `size` px, with the whole network's weights, not fitted yet.

    Maps grow to half the image's size, then they do not; a last inverse Haar transform makes the image.

    Args:
        whole: the network to take part of; it is left as it is.
        size: of `EXITS`.
    """

    def __init__(self, whole: SynthesisNetwork, size: int) -> None:
        super().__init__()
        last = (size // 2 // START).bit_length() - 2
        self.lows = WIDTHS[last + 1] // 4
        self.shapes = [(width, START * 2**i, START * 2**i) for i, width in enumerate(WIDTHS[: last + 1])]
        self.shapes.append((self.lows + DETAILS, size // 2, size // 2))
        self.first = whole.first
        self.blocks = nn.ModuleList([*whole.blocks[:last], _bridge(whole, last, size // 2)])
        self.coarse = nn.ModuleList(
            CoarseBlock(whole, i, 2 ** (i - last), size // 2) for i in range(last + 1, len(WIDTHS) - 1)
        )
        self.bands = _bands(whole, self.lows + DETAILS)

    @property
    def trunk(self) -> int:
        """Return the last stage that is the whole network's own, of maps of a quarter of the image's size."""
        return len(self.blocks)

    def finish(
        self, x: Float[Tensor, "n c side side"], style: Float[Tensor, "n 512"], stage: int
    ) -> Float[Tensor, "n 3 size size"]:
        """Return the images of a stage's maps."""
        for block in self.blocks[stage - 1 :]:
            x = block(x, style)
        late = x.split([self.lows, DETAILS], 1)[0]
        for block in self.coarse:
            late = block(late, style)
        return inverse_haar(self.bands(torch.cat([x, late], 1), style) / 2)


class CoarseBlock(nn.Module):
    """A block of the whole network on a map that keeps its size: the means over the pixels it would have.

    Args:
        whole: the network it is of.
        number: of the block.
        factor: how many times smaller than its own its map is.
        size: height and width in pixels of the map.
    """

    def __init__(self, whole: SynthesisNetwork, number: int, factor: int, size: int) -> None:
        super().__init__()
        block: Any = whole.blocks[number]
        below, above = WIDTHS[number], WIDTHS[number + 1]
        is_last = number == len(whole.blocks) - 1
        lows = torch.arange(above if is_last else above // 4)
        self.up_style = _linear(block.up_style, torch.arange(below // 4))
        self.layers = nn.ModuleList(
            [
                _separable(block.layers[0], torch.arange(above), factor, size),
                _separable(block.layers[1], lows, factor, size),
            ]
        )

    def forward(
        self, x: Float[Tensor, "n below height width"], style: Float[Tensor, "n 512"]
    ) -> Float[Tensor, "n above height width"]:
        """Return the next map, of the same size, in the low bands' channels."""
        x = x * (self.up_style(style) / 2)[:, :, None, None]
        for layer in self.layers:
            x = layer(x, style)
        return x


def fitted_names(network: EarlyExit) -> list[str]:
    """Return the names of the tensors that are fitted: the tail's, but for how styles scale channels there.

    The styles' layers stay the whole network's; those of the new last layer are fitted too.
    """
    kept = ("first.", *(f"blocks.{i}." for i in range(network.trunk - 1)))
    return [
        name
        for name in network.state_dict()
        if not name.startswith(kept) and ("style" not in name or name.startswith("bands."))
    ]


def load_early_exit(whole: SynthesisNetwork, size: int) -> EarlyExit:
    """Return the early exit of a network with the fitted weights of this package, frozen.

    Args:
        whole: the published network.
        size: of `EXITS`.

    Raises:
        WeightsError: the fitted weights are missing or altered.
    """
    network = EarlyExit(whole, size)
    entry = f"mobilestylegan-exit{size}"
    fitted = load_tensors(locate(entry) / f"{entry}.safetensors")
    network.load_state_dict({**network.state_dict(), **fitted})
    return network.eval().requires_grad_(False)


def _bridge(whole: SynthesisNetwork, number: int, size: int) -> Block:
    """Return the last block that grows: of its output, the low bands and the high ones that weigh most."""
    block: Any = whole.blocks[number]
    after: Any = whole.blocks[number + 1]
    lows = WIDTHS[number + 1] // 4
    weights = after.up_style.bias.abs()[lows:]
    kept = torch.cat([torch.arange(lows), lows + weights.topk(DETAILS).indices.sort().values])
    bridge = Block(WIDTHS[number], WIDTHS[number + 1], size)
    bridge.load_state_dict(block.state_dict())
    bridge.layers[1] = _separable(block.layers[1], kept, 1, size)
    return bridge


def _bands(whole: SynthesisNetwork, width: int) -> Pointwise:
    """Return the last layer: the whole network's on late maps, zero on `width` channels before them."""
    late = whole.bands
    bands = Pointwise(width + WIDTHS[-1], 12)
    with torch.no_grad():
        for parameter in bands.parameters():
            parameter.zero_()
        bands.weight[:3, width:] = late.weight[:3]
        bands.bias[:3] = late.bias[:3]
        bands.style.weight[width:] = late.style.weight
        bands.style.bias[width:] = late.style.bias
        bands.style.bias[:width] = 1
    return bands


def _separable(layer: Separable, kept: Tensor, factor: int, size: int) -> Separable:
    """Return a layer's `kept` outputs on a map `factor` times smaller than its own."""
    width = layer.depthwise.weight.shape[0]
    part = Separable(width, len(kept), size)
    with torch.no_grad():
        part.depthwise.weight.copy_(_mean_kernel(layer.depthwise.weight, factor))
        part.noise.copy_(F.adaptive_avg_pool2d(layer.noise, size))
        part.pointwise.weight.copy_(layer.pointwise.weight[kept])
        part.pointwise.bias.copy_(layer.pointwise.bias[kept])
    part.pointwise.style.load_state_dict(layer.pointwise.style.state_dict())
    return part


def _mean_kernel(kernel: Float[Tensor, "c 1 3 3"], factor: int) -> Float[Tensor, "c 1 3 3"]:
    """Return the kernel that gives a convolution's means over `factor` x `factor` pixels, from such means.

    Exact where all pixels of a block are equal: of a block's `factor` rows one sees the row of the block
    before, one that of the block after, and all others see the block alone.
    """
    seen = 1 / factor
    rows = kernel.new_tensor([[seen, 0, 0], [1 - seen, 1, 1 - seen], [0, 0, seen]])
    return rows @ kernel @ rows.T


def _linear(layer: nn.Linear, kept: Tensor) -> nn.Linear:
    part = nn.Linear(layer.in_features, len(kept))
    part.load_state_dict({name: tensor[kept] for name, tensor in layer.state_dict().items()})
    return part
