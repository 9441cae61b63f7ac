"""The priors that this project trains itself: what they are made of."""

from dataclasses import dataclass

from ggl.generators.bundled.encoded_network import Encoder, FeatureDiscriminator, ResidualGenerator
from ggl.generators.bundled.feature_network import FeatureNetwork
from ggl.generators.bundled.network import Discriminator, Generator

__all__ = ["RECIPES", "DCGANRecipe", "EncodedRecipe", "Recipe"]


@dataclass(frozen=True)
class DCGANRecipe:
    """A class-conditional DCGAN of 32 px.

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


@dataclass(frozen=True)
class EncodedRecipe:
    """A class-conditional generator of 32 px, trained with an encoder and on frozen features.

    Attributes:
        channels: of an image.
        latent_dim: of the standard-normal latents.
        generator_widths: channels of the generator's feature maps, from 4 px up.
        encoder_widths: channels of the encoder's, from 16 px down.
        head_width: channels of the last map of each of the discriminator's heads.
        num_classes: of the training data.
        flips: whether real images are mirrored at random.
    """

    channels: int
    latent_dim: int
    generator_widths: tuple[int, ...] = (256, 128, 64, 32)
    encoder_widths: tuple[int, ...] = (48, 96, 192)
    head_width: int = 96
    num_classes: int = 10
    flips: bool = False

    def generator(self) -> ResidualGenerator:
        """Return the untrained generator."""
        return ResidualGenerator(self.latent_dim, self.num_classes, self.channels, self.generator_widths)

    def encoder(self) -> Encoder:
        """Return the untrained encoder."""
        return Encoder(self.latent_dim, self.channels, self.encoder_widths)

    def discriminator(self) -> FeatureDiscriminator:
        """Return the untrained discriminator."""
        return FeatureDiscriminator(self.num_classes, self.channels, FeatureNetwork.widths, self.head_width)


Recipe = DCGANRecipe | EncodedRecipe

RECIPES: dict[str, Recipe] = {
    "fashion-dcgan32": DCGANRecipe(channels=1, latent_dim=64, generator_widths=(192, 96, 64, 32)),
    "cifar10-gan32": EncodedRecipe(channels=3, latent_dim=160, flips=True),
}
"""By the name of the prior."""
