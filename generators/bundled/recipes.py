"""The priors that this project trains itself: what they are made of and how they are trained."""

from dataclasses import dataclass

from ggl.generators.bundled.network import Discriminator, Generator

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """A class-conditional DCGAN of 32 px and its training.

    Attributes:
        channels: of an image.
        latent_dim: of the standard-normal latents.
        generator_widths: channels of the generator's feature maps, from 4 px up.
        discriminator_widths: channels of the discriminator's, from 16 px down.
        num_classes: of the training data.
        flips: whether real images are mirrored at random.
    """

    channels: int
    latent_dim: int
    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...] = (64, 128, 256)
    num_classes: int = 10
    flips: bool = False

    def generator(self) -> Generator:
        """Return the untrained generator."""
        return Generator(self.latent_dim, self.num_classes, self.channels, self.generator_widths)

    def discriminator(self) -> Discriminator:
        """Return the untrained discriminator."""
        return Discriminator(self.num_classes, self.channels, self.discriminator_widths)


RECIPES = {
    "fashion-dcgan32": Recipe(channels=1, latent_dim=64, generator_widths=(192, 96, 64, 32)),
    "cifar10-gan32": Recipe(channels=3, latent_dim=128, generator_widths=(256, 128, 64, 32), flips=True),
}
"""By the name of the prior."""
