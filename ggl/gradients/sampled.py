"""Victims that draw noise on every forward pass: how a client, and an attacker's trial, draws it."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream, stream_seed

__all__ = ["Sampled", "Trial", "digest", "draw_noise", "sampled_layers", "take_penalties"]


@dataclass(frozen=True)
class Trial:
    """How an attacker makes a trial gradient on a victim that samples; nothing else is affected.

    Attributes:
        draws: noise draws that one trial gradient averages; each costs a forward and backward pass. They
            are one batch: batch normalization in train mode normalizes them together.
        redrawn: whether every scored population, those of searches side by side together, meets new
            noise. Otherwise all of a search meet the same.
        regularized: whether the victim's own penalty is part of the loss.
    """

    draws: int = 1
    redrawn: bool = False
    regularized: bool = True

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"expected at least 1 noise draw in a trial gradient, found {self.draws}")


class Sampled(nn.Module):
    """A layer that draws standard normal noise on every forward pass, and may add a penalty to the loss.

    The noise is a function of `seed`, so that every backend meets the same. A candidate's `batch` rows are
    drawn independently, the candidates of a population alike: common random numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.batch, self.regularized = 0, 0, True
        self._penalty: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the penalty of a forward pass out of copies: it belongs to a graph."""
        return {**self.__dict__, "_penalty": None}

    def noise(self, like: Float[Tensor, "m *shape"], use: int = 0) -> Float[Tensor, "m *shape"]:
        """Return N(0, 1) noise.

        Args:
            like: of the noise's shape; it holds the batches of several candidates in a row, or one.
            use: of the layer within one forward pass, from 0; each has noise of its own.
        """
        rows = self.batch or len(like)
        names = ("noise", use) if use else ("noise",)
        drawn = numpy_stream(self.seed, *names).standard_normal((rows, *like.shape[1:]))
        table = torch.from_numpy(drawn).to(like)
        if rows == len(like):
            return table
        return table.repeat(-(-len(like) // rows), *[1] * (like.dim() - 1))[: len(like)]

    def keep_penalty(self, penalty: Float[Tensor, " m"]) -> None:
        """Add a penalty, one an image, to the loss of the forward pass under way."""
        self._penalty = penalty if self.regularized else None

    def take_penalty(self) -> Tensor | None:
        """Return the penalty of the last forward pass, once."""
        penalty, self._penalty = self._penalty, None
        return penalty


def sampled_layers(model: nn.Module) -> dict[str, Sampled]:
    """Return a model's sampled layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Sampled)}


def draw_noise(model: nn.Module, seed: int, *, regularized: bool = True) -> None:
    """Fix what the model's sampled layers draw from now on: each its own stream of `seed`.

    Args:
        model: changed in place.
        seed: of the noise.
        regularized: whether the layers' penalties are part of the loss.
    """
    for name, layer in sampled_layers(model).items():
        layer.seed, layer.batch, layer.regularized = stream_seed(seed, name), 0, regularized


def take_penalties(model: nn.Module, losses: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Return the losses of a forward pass with the sampled layers' penalties added."""
    for layer in sampled_layers(model).values():
        penalty = layer.take_penalty()
        if penalty is not None:
            losses = losses + penalty
    return losses


def digest(images: Tensor) -> str:
    """Return what tells populations apart, so that a resumed search meets the noise it would have met."""
    data = images.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()
