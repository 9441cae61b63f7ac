"""What every part is given: a device, how much is measured there, the networks, and how long it may take."""

import copy
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ggl.base.random import stream
from ggl.benchmarks.tools.random_weights import STYLEGAN2, write_biggan, write_stylegan2, write_wgan_gp
from ggl.generators import Prior, load_prior
from ggl.gradients import GradientOracle, Gradients
from ggl.victims import load_victim

__all__ = ["SIZES", "Bench", "Case", "Outcome", "Size", "Table", "tf32"]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        tiny: whether the bundled prior and LeNet stand in for the networks of the true shapes.
        populations: candidates scored at once.
        rounds: turns of what is compared, at most.
        targets: searched side by side.
        loop: images of one round of the published loop.
        budget: evaluations of the one image that is searched by default.
        strategies: of which searches are measured.
        seconds: of each part, by its name.
    """

    tiny: bool
    populations: tuple[int, ...]
    rounds: int
    targets: int
    loop: int
    budget: int
    strategies: tuple[str, ...]
    seconds: Mapping[str, int]


PARTS = ("equality", "rates", "loop", "image", "packed", "memory", "halts", "hours")


BOTH = ("cma-es", "gauss-newton")
"""One whose searches are one set of tensors on the device, and one of an object a search on the host."""


def _seconds(*each: int) -> dict[str, int]:
    return dict(zip(PARTS, each, strict=True))


SIZES = {
    "full": Size(False, (16, 64, 256), 9, 64, 50, 2000, BOTH, _seconds(50, 150, 25, 30, 40, 20, 15, 60)),
    "quick": Size(False, (64,), 5, 64, 50, 500, BOTH, _seconds(15, 25, 5, 8, 10, 8, 6, 12)),
    "trial": Size(False, (2,), 1, 2, 2, 18, ("cma-es:population=3",), dict.fromkeys(PARTS, 600)),
    "tiny": Size(True, (4,), 1, 3, 4, 160, BOTH, dict.fromkeys(PARTS, 600)),
}
"""A trial is the true shapes on a CPU: whether they run at all."""


@dataclass(frozen=True)
class Table:
    """Rows under headings, None where there is nothing to say."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Outcome:
    """What a part found, what it left out or has to say, and what is wrong."""

    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """A prior and a victim of its size on a device, and an image's label."""

    name: str
    prior: Prior
    victim: nn.Module
    label: Tensor

    @property
    def device(self) -> torch.device:
        """Return where they are."""
        return self.label.device

    def oracle(self, victim: nn.Module | None = None, **options: Any) -> GradientOracle:
        """Return the layerwise oracle of the victim, or of a copy in another memory format."""
        model = self.victim if victim is None else victim
        return GradientOracle(model, **{"backend": "layerwise", **options})

    def latents(self, n: int, name: str = "latents") -> Tensor:
        """Return n samples of the prior's latents on the device."""
        return self.prior.sample(n, stream(0, "gpu", name)).to(self.device)

    @torch.no_grad()
    def images(self, n: int) -> Tensor:
        """Return n images of the prior, one after the other: as many as are wanted fit."""
        return torch.cat([self.prior.decode(z[None], self.label) for z in self.latents(n, "private")])

    def shared(self, oracle: GradientOracle, n: int = 1) -> list[Gradients]:
        """Return the gradients of n images of the prior."""
        return [oracle.observe(image[None], self.label) for image in self.images(n)]

    def copies(self, memory_format: torch.memory_format | None) -> tuple[Prior, nn.Module]:
        """Return prior and victim, their weights in a memory format, or as they were loaded."""
        if memory_format is None:
            return self.prior, self.victim
        prior, victim = copy.deepcopy(self.prior), copy.deepcopy(self.victim)
        return prior.to(memory_format=memory_format), victim.to(memory_format=memory_format)


@dataclass
class Bench:
    """A device, how much is measured there, the cases, made when they are first wanted, and the time left."""

    device: torch.device
    size: Size
    ends: float = float("inf")
    """When the part under way has to end, by `time.monotonic`."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Return the seconds left to the part under way."""
        return max(0.0, self.ends - time.monotonic())

    @cached_property
    def small(self) -> Case:
        """Return the bundled prior of clothes and LeNet, at 32 px."""
        prior = load_prior("fashion-dcgan32")
        victim = load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        return self._case("fashion-dcgan32 + LeNet, 32 px", prior, victim)

    @cached_property
    def imagenet(self) -> Case:
        """Return BigGAN-deep-256 reduced to 224 px, random weights, and ResNet-18 with 1,000 classes."""
        if self.size.tiny:
            return self.small
        with tempfile.TemporaryDirectory() as folder:
            write_biggan(Path(folder), 256)
            prior = load_prior(f"biggan-deep:256,weights={folder},size=224")
        victim = load_victim("resnet18-imagenet", in_channels=3, num_classes=1000, image_size=224)
        return self._case("BigGAN-deep-256 + ResNet-18, 224 px", prior, victim)

    @cached_property
    def faces(self) -> Case:
        """Return StyleGAN2 of 256 px, random weights, and ResNet-18 with two classes."""
        if self.size.tiny:
            return self.small
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "faces.safetensors"
            write_stylegan2(path, **STYLEGAN2["stylegan2-ffhq256"])
            prior = load_prior(f"stylegan2:{path}")
        victim = load_victim("resnet18-imagenet", in_channels=3, num_classes=2, image_size=256)
        return self._case("StyleGAN2-256 + ResNet-18, 256 px", prior, victim)

    @cached_property
    def celeba(self) -> Case:
        """Return GGL's WGAN-GP of 32 px, random weights, and its ResNet-18 with two classes."""
        if self.size.tiny:
            return self.small
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "wgan-gp.safetensors"
            write_wgan_gp(path)
            prior = load_prior(f"wgan-gp:{path}")
        victim = load_victim("resnet18", in_channels=3, num_classes=2, image_size=32)
        return self._case("WGAN-GP + ResNet-18, 32 px", prior, victim)

    def pixels(self, like: Case) -> Case:
        """Return the prior of plain pixels for a case's victim."""
        channels, height, width = like.prior.image_shape
        prior = load_prior(f"pixels:{channels}x{height}x{width}")
        return self._case(f"pixels, {height} px", prior, like.victim)

    def _case(self, name: str, prior: Prior, victim: nn.Module) -> Case:
        label = torch.tensor([1], device=self.device)
        return Case(name, prior.to(self.device), victim.to(self.device), label)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow a GPU's products of float32 to be rounded to TF32, or forbid it; then as it was."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
