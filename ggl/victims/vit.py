"""A small vision transformer whose parameters all sit in hookable layers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.victims.base import Victim, check_image_size

__all__ = ["Attention", "Block", "ViT", "vit"]

PATCH = 4
WIDTH = 128
DEPTH = 4
HEADS = 4
POSITION_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention, softmax(q kᵀ / √d) v, written out so that it can be differentiated twice.

    Vaswani et al., Attention Is All You Need (arXiv 1706.03762, equation 1).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n tokens width"]) -> Float[Tensor, "n tokens width"]:
        """Return what every token takes from all tokens."""
        heads: Tensor = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """A pre-norm encoder block: attention, then a GELU layer four times as wide, each with a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "n tokens width"]) -> Float[Tensor, "n tokens width"]:
        """Return the tokens after the block."""
        x = x + self.attention(self.norm1(x))
        tokens: Tensor = x + self.mlp(self.norm2(x))
        return tokens


class ViT(Victim):
    """Patches of 4 pixels, width 128, 4 blocks of 4 heads, mean over the tokens, then a linear head.

    Dosovitskiy et al., An Image is Worth 16x16 Words (arXiv 2010.11929), with the mean over tokens
    instead of a class token. Positions are an `nn.Embedding` read once per image.
    """

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Embedding((image_size // PATCH) ** 2, WIDTH)
        nn.init.normal_(self.positions.weight, std=POSITION_STD)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)

    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the mean of the normalized tokens, (n, 128)."""
        tokens: Tensor = self.patches(x).flatten(2).transpose(1, 2)
        indices = torch.arange(tokens.shape[1], device=x.device).expand(len(x), -1)
        encoded: Tensor = self.norm(self.blocks(tokens + self.positions(indices)))
        return encoded.mean(1)


def vit(*, in_channels: int, num_classes: int, image_size: int) -> ViT:
    """Small vision transformer: patches of 4 pixels, width 128, 4 blocks of 4 heads."""
    check_image_size("vit", image_size, multiple_of=PATCH)
    return ViT(in_channels, num_classes, image_size)
