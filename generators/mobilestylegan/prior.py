"""The prior of MobileStyleGAN's faces (arXiv 2104.04767), from its author's published OpenVINO networks."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ggl.base.errors import InputError
from ggl.base.options import specification
from ggl.base.weight_files import locate
from ggl.generators.mobilestylegan.early_exit import EXITS, load_early_exit
from ggl.generators.mobilestylegan.network import IMAGE_SIZE, STYLE_DIM, Growing
from ggl.generators.mobilestylegan.weights import load_mapping, load_synthesis
from ggl.generators.stages import StagedPrior, restored, stage_of
from ggl.generators.whitening import whitening_of

__all__ = ["MobileStyleGAN"]

ENTRY = "mobilestylegan-ffhq"
SIZE = 64
"""Height and width in pixels of images, unless the caller asks for others."""
CHUNKS = {64: (8, 64), 128: (1, 16), IMAGE_SIZE: (1, 8)}
"""Images decoded at once on a CPU and elsewhere, by the size that the network makes. More are no faster and
take more memory."""
STYLES = 16_384
"""Styles behind the mean and the covariance of the style space."""


class MobileStyleGAN(StagedPrior):
    """Faces, up to 1024 px color, 512 latent dimensions; S. Belousov's weights (Apache-2.0).

    They come with the package random-face; the images it was trained on, FFHQ, are CC BY-NC-SA 4.0.
    The noise of the synthesis is the one the author exported, so that a latent has one image.

    Args:
        size: height and width in pixels; the default is what victims on two cores can be audited with.
        exit: "full", the mean over areas of the 1024 px image, whose network takes about the same time for
            every size; or "early", for up to 128 px, a part of it that was fitted to such means
            (`ggl.generators.mobilestylegan.early_exit`): 64 and 128 px as they come, others as means
            over areas of the next larger one. By default "early" where there is one.
        space: "z", the mapping's Gaussian input, or "w", its output whitened by the mean and the
            covariance of 16,384 styles. A standard normal latent of "w" is a Gaussian approximation
            of the style space.
        truncation: in (0, 1]; the styles' distance from their mean is scaled by it.

    Raises:
        InputError: a size or truncation out of range.
        WeightsError: the weights are not at hand, or were altered.
    """

    licence = "Apache-2.0 (the weights); trained on FFHQ, which is CC BY-NC-SA 4.0"
    latent_dim = STYLE_DIM
    reads_latents = True

    style_mean: Tensor
    style_root: Tensor

    def __init__(
        self,
        *,
        size: int = SIZE,
        space: Literal["z", "w"] = "z",
        truncation: float = 1.0,
        exit: Literal["early", "full"] | None = None,  # noqa: A002
    ) -> None:
        super().__init__()
        if not 1 <= size <= IMAGE_SIZE:
            raise InputError(f"prior {ENTRY}: expected a size of 1 to {IMAGE_SIZE} px, found {size}")
        if not 0 < truncation <= 1:
            raise InputError(
                f"prior {ENTRY}: expected a truncation above 0 and at most 1, found {truncation:g}"
            )
        exit = exit or _usual_exit(size)  # noqa: A001
        if exit == "early" and size > EXITS[-1]:
            raise InputError(
                f"prior {ENTRY}: expected exit=early with a size of up to {EXITS[-1]} px, found {size}; "
                "leave exit out"
            )
        self.name = specification(
            ENTRY,
            {
                "size": size if size != SIZE else None,
                "space": space if space != "z" else None,
                "truncation": truncation if truncation != 1 else None,
                "exit": exit if exit != _usual_exit(size) else None,
            },
        )
        self.image_shape = (3, size, size)
        self.space, self.truncation = space, truncation
        folder = locate(ENTRY)
        self.mapping = load_mapping(folder).double()
        whole = load_synthesis(folder)
        self.synthesis: Growing = whole
        self.made = min(e for e in EXITS if e >= size) if exit == "early" else IMAGE_SIZE
        if exit == "early":
            self.synthesis = load_early_exit(whole, self.made)
        self.stages = tuple(map(stage_of, self.synthesis.shapes))
        if space == "w" or truncation < 1:
            z = torch.randn(STYLES, STYLE_DIM, generator=torch.Generator().manual_seed(0))
            mean, root = whitening_of(self.mapping(z))
            self.register_buffer("style_mean", mean.float())
            self.register_buffer("style_root", root)

    def decode(
        self, z: Float[Tensor, "n 512"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n 3 size size"]:
        """Return the images of latents `z` (n, 512) in [0, 1]; `labels` are ignored.

        Decoded a few at a time; where a gradient is asked for, what lies between is computed again for it, so
        that memory is bounded.
        """
        self.check_labels(labels)
        return self._in_chunks(lambda z: self._images(self.synthesis(self.styles(z))), z)

    def features(
        self, z: Float[Tensor, "n 512"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return the maps of 4, 8, ... px, to 512 or half of an early exit's size; `labels` are ignored."""
        self.check_labels(labels)
        return self._in_chunks(lambda z: self.synthesis.begin(self.styles(z), stage).flatten(1), z)

    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n 512"],
        labels: Int[Tensor, " n"] | None,  # noqa: ARG002
        stage: int,
    ) -> Float[Tensor, "n 3 side side"]:
        """Return the images of a stage's maps under the styles of latents, a few at a time."""

        def images(a: Tensor, z: Tensor) -> Tensor:
            maps = restored(a, self.synthesis.shapes[stage - 1])
            return self._images(self.synthesis.finish(maps, self.styles(z), stage))

        return self._in_chunks(images, a, z)

    def _images(self, values: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 size size"]:
        return F.adaptive_avg_pool2d((values / 2 + 0.5).clamp(0, 1), self.image_shape[1])

    def styles(self, z: Float[Tensor, "n 512"]) -> Float[Tensor, "n 512"]:
        """Return the styles of latents.

        In float64: how rounding depends on the number of latents would grow in the network behind them.
        """
        if self.space == "w":
            return self.style_mean + self.truncation * (z.double() @ self.style_root).to(z.dtype)
        styles: Tensor = self.mapping(z)
        return styles if self.truncation == 1 else torch.lerp(self.style_mean, styles, self.truncation)

    def _in_chunks(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return a function of rows, a few at a time; what lies between is computed again for a gradient."""
        on_cpu, elsewhere = CHUNKS[self.made]
        size = on_cpu if inputs[0].device.type == "cpu" else elsewhere
        chunks = list(zip(*(tensor.split(size) for tensor in inputs), strict=True))
        kept = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        if len(chunks) == 1 or not kept:
            return torch.cat([function(*chunk) for chunk in chunks])
        return torch.cat(
            [checkpoint(function, *x, use_reentrant=False, preserve_rng_state=False) for x in chunks]
        )


def _usual_exit(size: int) -> Literal["early", "full"]:
    return "early" if size <= EXITS[-1] else "full"
