"""The WGAN-GP prior of GGL's CelebA experiments, and its networks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ggl.base.errors import WeightsError
from ggl.base.weights import load_tensors
from ggl.generators.formats import format_of
from ggl.generators.stages import Chain, StagedPrior

__all__ = ["WGANGP", "Critic", "Generator", "gradient_penalty"]

START = 4
"""Height and width in pixels of the first feature map; three layers double it to 32."""
SIZE = 32
CHANNELS = 3


class Generator(nn.Module):
    """The generator of WGAN-GP (arXiv 1704.00028) for 32 px, with the tensor names of GGL's checkpoints.

    A linear layer makes 4·`width` maps of 4 px; three transposed convolutions of kernel and stride
    2 double them, with batch normalization and ReLU before each.
    """

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        features = 4 * width * START**2
        self.preprocess = nn.Sequential(
            nn.Linear(latent_dim, features), nn.BatchNorm1d(features), nn.ReLU(inplace=True)
        )
        self.block1 = _doubling(4 * width, 2 * width)
        self.block2 = _doubling(2 * width, width)
        self.deconv_out = nn.ConvTranspose2d(width, CHANNELS, 2, stride=2)

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n 3 32 32"]:
        """Return images in [-1, 1]."""
        x = self.preprocess(z).unflatten(1, (-1, START, START))
        return torch.tanh(self.deconv_out(self.block2(self.block1(x))))


def _doubling(below: int, above: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(below, above, 2, stride=2)
    return nn.Sequential(convolution, nn.BatchNorm2d(above), nn.ReLU(inplace=True))


class Critic(nn.Module):
    """The critic of WGAN-GP for 32 px: three strided convolutions, no normalization, a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(CHANNELS, width, 3, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(),
        )
        self.linear = nn.Linear(4 * width * START**2, 1)

    def forward(self, images: Float[Tensor, "n 3 32 32"]) -> Float[Tensor, " n"]:
        """Return a score per image, high for real ones; images in [-1, 1]."""
        score: Tensor = self.linear(self.main(images).flatten(1))[:, 0]
        return score


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "n channels height width"],
    fake: Float[Tensor, "n channels height width"],
    mix: Float[Tensor, "n 1 1 1"],
) -> Float[Tensor, ""]:
    """Return the mean of (‖∇D(x)‖ - 1)² at x = mix·real + (1 - mix)·fake (arXiv 1704.00028, eq. 3)."""
    points = (mix * real + (1 - mix) * fake).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    penalty: Tensor = (slopes.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


class WGANGP(StagedPrior):
    """A WGAN-GP generator, 32 px RGB, without classes: what `ggl.generators.wgan_gp.train` writes.

    Checkpoints of GGL's own training (arXiv 2203.15696: faces of CelebA, 128 latent dimensions) have
    the same tensors, and load as well.

    Args:
        path: the file: `.safetensors`, or torch (read as tensors only).

    Raises:
        WeightsError: the file cannot be read, or its tensors are not those of such a generator.
    """

    image_shape = (CHANNELS, SIZE, SIZE)

    def __init__(self, path: str) -> None:
        super().__init__()
        self.name = f"wgan-gp:{path}"
        self.licence = "that of the weights file"
        tensors = load_tensors(path)
        self.latent_dim, width = _dimensions(Path(path), tensors)
        generator = _with_tensors(Path(path), tensors, self.latent_dim, width)
        self.generator = _folded(generator).requires_grad_(False)
        self.chain = Chain(self.generator, torch.zeros(1, self.latent_dim))
        self.stages = self.chain.stages

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n 3 32 32"]:
        """Return the images of latents `z`, in [0, 1]; `labels` are ignored."""
        self.check_labels(labels)
        images: Tensor = (self.generator(z) + 1) / 2
        return images

    def features(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return the maps of 4, 8 or 16 px, the stages 1 to 3."""
        self.check_labels(labels)
        return self.chain.begin(self.generator, z, stage)

    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n d"],  # noqa: ARG002
        labels: Int[Tensor, " n"] | None,  # noqa: ARG002
        stage: int,
    ) -> Float[Tensor, "n 3 32 32"]:
        """Return the images of a stage's maps."""
        return (self.chain.finish(self.generator, a, stage) + 1) / 2


def _with_tensors(path: Path, tensors: Mapping[str, Tensor], latent_dim: int, width: int) -> Generator:
    """Return the generator that holds a file's tensors, in eval mode and float64."""
    with torch.device("meta"):
        generator = Generator(latent_dim, width).eval()
    wanted = generator.state_dict()
    _check_tensors(path, tensors, wanted)
    # Counters of batches, which older files lack, play no part in eval mode.
    state = {name: tensors[name].double() for name in wanted if wanted[name].ndim}
    generator.load_state_dict(state, strict=False, assign=True)
    return generator


def _dimensions(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    first, last = tensors.get("preprocess.0.weight"), tensors.get("deconv_out.weight")
    if first is None or last is None or first.ndim != 2 or last.ndim != 4:
        raise WeightsError(
            f"{path}: expected a WGAN-GP generator with preprocess.0.weight and deconv_out.weight, "
            f"found {format_of(tensors) or ', '.join(list(tensors)[:4])}; train one with "
            "python -m ggl.generators.wgan_gp.train, or use dcgan:FILE for other plain generators"
        )
    return first.shape[1], last.shape[0]


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name, like in wanted.items():
        found = tensors.get(name)
        if like.ndim and (found is None or found.shape != like.shape):
            what = "none" if found is None else f"shape {tuple(found.shape)}"
            raise WeightsError(
                f"{path}: expected {name} of shape {tuple(like.shape)} in a WGAN-GP generator, found {what}"
            )
        if like.ndim and found is not None and not (found.is_floating_point() and found.isfinite().all()):
            raise WeightsError(f"{path}: expected finite numbers in {name}, found others; train it again")
    superfluous = sorted(tensors.keys() - wanted.keys())
    if superfluous:
        raise WeightsError(f"{path}: expected a WGAN-GP generator alone, found {superfluous[0]} too")


def _folded(generator: Generator) -> nn.Sequential:
    """Return the same function, float32, each normalization folded into the layer before it."""
    parts: list[Any] = [generator.preprocess, generator.block1, generator.block2]
    linear, norm, relu = parts[0]
    layers: list[nn.Module] = [fuse_linear_bn_eval(linear, norm), relu, nn.Unflatten(1, (-1, START, START))]
    for convolution, norm, relu in parts[1:]:
        layers += [fuse_conv_bn_eval(convolution, norm, transpose=True), relu]
    folded = nn.Sequential(*layers, generator.deconv_out, nn.Tanh()).eval()
    return folded.float().to(memory_format=torch.channels_last)
