"""Priors of the `pytorch-pretrained-gans` library, whichever it offers where it is installed."""

import importlib.util
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.downloads import OFFLINE, is_offline
from ggl.base.errors import InputError, WeightsError, cause, users_code
from ggl.base.options import specification
from ggl.base.random import global_streams_kept
from ggl.generators.base import Prior

__all__ = ["PretrainedGAN"]

LIBRARY = "pytorch_pretrained_gans"
INSTALL = "pip install git+https://github.com/lukemelas/pytorch-pretrained-gans"
DRAWS = 512
"""Latents of the library's own that the scale is taken from."""


class PretrainedGAN(Prior):
    """A GAN of the library pytorch-pretrained-gans (biggan, studiogan, bigbigan, ...), by its own loader.

    The library loads, and where needed downloads, the weights itself, without a hash; from torch 2.6
    on, which this package needs, its reader takes tensors only. Latents that are
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
        UserCodeError: what it brought raised when it was used.
    """

    licence = "that of the GAN chosen; see its publisher"

    def __init__(self, gan_type: str, *, model: str | None = None, size: int | None = None) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise InputError(f"prior pretrained-gan: expected a size of at least 1, found {size}")
        self.name = specification(f"pretrained-gan:{gan_type}", {"model": model, "size": size})
        with global_streams_kept():
            gan: Any = _make(gan_type, model)
            with users_code(f"prior {self.name}"):
                self.gan = gan.eval().requires_grad_(False)
                self.scale = _latent_scale(gan)
                self.latent_dim = int(gan.dim_z)
                self.num_classes = int(gan.num_classes) if gan.conditional else None
        self.size = size
        with torch.no_grad():
            first = torch.zeros(1, dtype=torch.long) if self.num_classes else None
            channels, height, width = self.decode(torch.zeros(1, self.latent_dim), first).shape[1:]
        self.image_shape = (channels, height, width)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of latents `z`, in [0, 1]."""
        self.check_labels(labels)
        arguments = [self.scale * z] if self.num_classes is None else [self.scale * z, labels]
        with users_code(f"prior {self.name}"):
            images: Tensor = ((self.gan(*arguments) + 1) / 2).clamp(0, 1)
        if images.ndim != 4:
            found = tuple(images.shape)
            raise InputError(f"prior {self.name}: expected images (n, c, h, w), found the shape {found}")
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
    options = {} if model is None else {"model_name": model}
    try:
        library: Any = importlib.import_module(LIBRARY)
        made: nn.Module = library.make_gan(gan_type=gan_type, **options)
    except (NotImplementedError, KeyError, TypeError) as error:
        raise InputError(
            f"{LIBRARY} makes no GAN of type {gan_type!r}, model {model!r} ({cause(error)})"
        ) from error
    except ImportError as error:
        raise InputError(f"{LIBRARY} lacks a package of its own ({cause(error)}); install it") from error
    except (Exception, SystemExit) as error:
        raise WeightsError(f"{LIBRARY} cannot load {gan_type!r}, model {model!r} ({cause(error)})") from error
    missing = [part for part in ("dim_z", "conditional", "sample_latent") if not hasattr(made, part)]
    if missing:
        raise InputError(f"{LIBRARY}: expected a wrapper, found {gan_type!r} without {', '.join(missing)}")
    return made


def _latent_scale(gan: Any) -> float:
    """Return the standard deviation of the library's latents."""
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    return float(gan.sample_latent(batch_size=DRAWS, device="cpu").std())
