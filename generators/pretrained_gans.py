"""Priors of the `pytorch-pretrained-gans` library, whichever it offers where it is installed."""

import importlib.util
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.downloads import OFFLINE, is_offline
from ggl.base.errors import InputError, WeightsError
from ggl.generators.base import Prior

__all__ = ["PretrainedGAN"]

LIBRARY = "pytorch_pretrained_gans"
INSTALL = "pip install git+https://github.com/lukemelas/pytorch-pretrained-gans"
DRAWS = 512
"""Latents of the library's own that the scale is taken from."""


class PretrainedGAN(Prior):
    """Any GAN of the library pytorch-pretrained-gans (biggan, studiogan, bigbigan, ...), by its own loader.

    The library loads, and where needed downloads, the weights itself, without a hash. Latents that are
    searched are standard normal; the library's are they times the standard deviation of its own
    `sample_latent`, which for BigGAN is truncated.

    Args:
        gan_type: of the library's `make_gan`. `stylegan2` is refused: the library would run code out of
            the weights file; the prior `stylegan2:FILE` reads the same file without.
        model: `model_name` of the library's loader; None for the library's default.
        size: height and width of the images, resized by area; None as the GAN gives them.

    Raises:
        InputError: the library is not installed, or does not know the GAN.
        WeightsError: the library cannot bring its weights, or downloads are forbidden.
    """

    licence = "that of the GAN chosen; see its publisher"

    def __init__(self, gan_type: str, *, model: str | None = None, size: int | None = None) -> None:
        super().__init__()
        self.name = f"pretrained-gan:{gan_type}" + "".join(
            f",{key}={value}" for key, value in (("model", model), ("size", size)) if value is not None
        )
        gan: Any = _make(gan_type, model).eval().requires_grad_(False)
        self.gan = gan
        self.latent_dim = int(gan.dim_z)
        self.num_classes = int(gan.num_classes) if gan.conditional else None
        self.size = size
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.scale = _latent_scale(gan)
            first = torch.zeros(1, dtype=torch.long) if self.num_classes else None
            channels, height, width = self.decode(torch.zeros(1, self.latent_dim), first).shape[1:]
        self.image_shape = (channels, height, width)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of latents `z`, in [0, 1]."""
        self.check_labels(labels)
        arguments = [self.scale * z] if self.num_classes is None else [self.scale * z, labels]
        images: Tensor = ((self.gan(*arguments) + 1) / 2).clamp(0, 1)
        return images if self.size is None else F.interpolate(images, (self.size, self.size), mode="area")


def _make(gan_type: str, model: str | None) -> nn.Module:
    if importlib.util.find_spec(LIBRARY) is None:
        raise InputError(f"prior pretrained-gan needs the library {LIBRARY}: {INSTALL}")
    if gan_type.lower() == "stylegan2":
        raise InputError(
            f"{LIBRARY} runs code out of StyleGAN2's weights file; use the prior stylegan2:FILE.pkl instead"
        )
    if is_offline():
        raise WeightsError(f"{LIBRARY} may download weights on its own, and {OFFLINE} forbids that; unset it")
    library: Any = importlib.import_module(LIBRARY)
    options = {} if model is None else {"model_name": model}
    try:
        made: nn.Module = library.make_gan(gan_type=gan_type, **options)
    except (NotImplementedError, KeyError, TypeError) as error:
        raise InputError(f"{LIBRARY} makes no GAN of type {gan_type!r}, model {model!r} ({error})") from error
    except (OSError, RuntimeError, AssertionError) as error:
        raise WeightsError(f"{LIBRARY} cannot load {gan_type!r}, model {model!r} ({error})") from error
    return made


def _latent_scale(gan: Any) -> float:
    """Return the standard deviation of the library's latents; NumPy's global state is put back."""
    before = np.random.get_state()
    try:
        torch.manual_seed(0)
        np.random.seed(0)
        return float(gan.sample_latent(batch_size=DRAWS, device="cpu").std())
    finally:
        np.random.set_state(before)
