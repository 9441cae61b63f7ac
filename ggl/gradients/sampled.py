"""Victims that draw noise on every forward pass: how a client, and an attacker's trial, draws it."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.base.random import GlobalStreams, StreamsAside, numpy_stream, seed_global_streams, stream_seed

__all__ = [
    "GlobalNoise",
    "Sampled",
    "Trial",
    "digest",
    "draw_noise",
    "global_noise",
    "sampled_layers",
    "take_penalties",
    "with_global_noise",
]


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
        table = torch.from_numpy(drawn).to(like.device, like.dtype, non_blocking=True)
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


class GlobalNoise:
    """Hooks around a victim's forward pass: what it draws from the global random streams follows from a seed.

    Functional dropout, stochastic depth and noise in `forward` draw there. Every pass begins at the same
    place of the streams, so that all candidates that are scored one by one, or by `vmap`, meet the same
    noise; then the streams are set back to where they stood.

    Attributes:
        seed: of the next passes.
        drew: the streams that a pass drew from, as `GlobalStreams.moved` names them; None before the first.
    """

    def __init__(self) -> None:
        self.seed = 0
        self.drew: frozenset[str] | None = None
        self._aside = StreamsAside()
        self._seeded: GlobalStreams | None = None

    def begin(self, _: nn.Module, _arguments: tuple[object, ...]) -> None:
        """Seed the streams."""
        self._aside.begin(self.seed)
        if self.drew is None:
            self._seeded = GlobalStreams()
            seed_global_streams(self.seed)

    def end(self, _: nn.Module, _arguments: tuple[object, ...], _returned: object) -> None:
        """Set the streams back, after a pass that raised too."""
        if self._seeded is not None:
            self.drew = self._seeded.moved()
        self._seeded = None
        self._aside.end()

    @property
    def by_rows(self) -> bool:
        """Whether a pass drew from streams whose numbers fill tensors, a row for every image."""
        return bool((self.drew or frozenset()) & {"torch", "numpy"})


def sampled_layers(model: nn.Module) -> dict[str, Sampled]:
    """Return a model's sampled layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Sampled)}


def with_global_noise(model: nn.Module) -> nn.Module:
    """Have what a model draws from the global random streams follow from a seed; changed in place."""
    if global_noise(model) is None:
        noise = GlobalNoise()
        model.register_forward_pre_hook(noise.begin)
        model.register_forward_hook(noise.end, always_call=True)
    return model


def global_noise(model: nn.Module) -> GlobalNoise | None:
    """Return the hooks of `with_global_noise`, None of a model without."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, GlobalNoise)), None)


def draw_noise(model: nn.Module, seed: int, *, regularized: bool = True) -> None:
    """Fix what the model draws from now on: each sampled layer its own stream of `seed`.

    Args:
        model: changed in place.
        seed: of the noise.
        regularized: whether the layers' penalties are part of the loss.
    """
    for name, layer in sampled_layers(model).items():
        layer.seed, layer.batch, layer.regularized = stream_seed(seed, name), 0, regularized
    noise = global_noise(model)
    if noise is not None:
        noise.seed = stream_seed(seed, "global")


def take_penalties(model: nn.Module, losses: Float[Tensor, "*m"]) -> Float[Tensor, "*n"]:
    """Return the losses (m,) of a forward pass, or a batch's one, with the layers' penalties added."""
    for layer in sampled_layers(model).values():
        penalty = layer.take_penalty()
        if penalty is not None:
            losses = losses + penalty
    return losses


def digest(images: Tensor) -> str:
    """Return what tells populations apart, so that a resumed search meets the noise it would have met."""
    data = images.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()
