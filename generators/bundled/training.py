"""How the bundled priors are trained: their losses, optimizers and resumable state."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import CheckpointError
from ggl.generators.bundled.feature_network import FeatureNetwork
from ggl.generators.bundled.recipes import DCGANRecipe, EncodedRecipe

__all__ = ["DCGANTraining", "EncodedTraining", "Training"]


class Training:
    """A generator, the moving average of its weights, and the steps that train it.

    Attributes:
        step: the steps done, of `steps`.
        seconds: the wall-clock seconds they took.
        processor_seconds: the seconds of processors they took.
    """

    LEARNING_RATE: ClassVar[float]
    BETAS: ClassVar[tuple[float, float]]
    """Of every Adam."""
    EMA: ClassVar[float]
    """Decay of the moving average."""
    FALL: ClassVar[float]
    """Share of the steps, at most half, at whose end the learning rate has fallen to 0."""

    def __init__(
        self, generator: nn.Module, others: list[nn.Module], steps: int, device: torch.device
    ) -> None:
        self.device, self.generator, self.networks = device, generator, [generator, *others]
        self.steps, self.step, self.seconds, self.processor_seconds = steps, 0, 0.0, 0.0
        for network in self.networks:
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(self.EMA)
        self.ema = torch.optim.swa_utils.AveragedModel(generator, multi_avg_fn=average, use_buffers=True)
        self.losses: dict[str, Tensor] = {}
        self.optimizers = [
            torch.optim.Adam(network.parameters(), self.LEARNING_RATE, betas=self.BETAS)
            for network in self.networks
        ]
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (1 - step / self.steps) / self.FALL))
            for o in self.optimizers
        ]

    def advance(self, images: Float[Tensor, "n channels 32 32"], labels: Int[Tensor, " n"]) -> None:
        """Take one step on a batch of real images in [-1, 1]."""
        self.losses = self.update(images.to(self.device), labels.to(self.device))
        for schedule in self.schedules:
            schedule.step()
        self.ema.update_parameters(self.generator)
        self.step += 1

    def told(self) -> str:
        """Return the losses of the last step, for a log."""
        return ", ".join(f"{name} {float(value):.3g}" for name, value in self.losses.items())

    def update(
        self, images: Float[Tensor, "n channels 32 32"], labels: Int[Tensor, " n"]
    ) -> dict[str, Tensor]:
        """Update every network and return the losses by name."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, object]:
        """Return everything that a resumed training needs."""
        parts: list[Any] = [*self.networks, self.ema, *self.optimizers, *self.schedules]
        return {
            "parts": [part.state_dict() for part in parts],
            "progress": [self.steps, self.step, self.seconds, self.processor_seconds],
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            CheckpointError: it is of another number of steps, and in the second half of one of the two,
                where the learning rate falls.
        """
        steps, step, seconds, processor_seconds = state["progress"]
        if steps != self.steps and 2 * step > min(steps, self.steps):
            raise CheckpointError(
                f"checkpoint: expected one of {self.steps} steps, found one of {steps} at step {step}, in a "
                f"second half, which goes by the number of steps; give --steps {steps} or another --out"
            )
        parts: list[Any] = [*self.networks, self.ema, *self.optimizers, *self.schedules]
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step, self.seconds, self.processor_seconds = step, seconds, processor_seconds
        torch.set_rng_state(state["random"])


class DCGANTraining(Training):
    """Hinge loss, spectral norm; a discriminator step, then a generator step."""

    LEARNING_RATE, BETAS, EMA, FALL = 2e-4, (0.0, 0.9), 0.999, 0.5

    def __init__(self, recipe: DCGANRecipe, steps: int, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.recipe = recipe
        generator, self.discriminator = recipe.generator(), recipe.discriminator()
        super().__init__(generator, [self.discriminator], steps, device)

    def update(
        self, images: Float[Tensor, "n channels 32 32"], labels: Int[Tensor, " n"]
    ) -> dict[str, Tensor]:
        """Update the discriminator, then the generator."""
        generator_optimizer, discriminator_optimizer = self.optimizers
        with torch.no_grad():
            fakes = self.generator(self._latents(len(labels)), labels)
        scores = self.discriminator(torch.cat([images, fakes]), labels.repeat(2))
        real, fake = scores.split(len(labels))
        discriminator_optimizer.zero_grad()
        (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
        discriminator_optimizer.step()

        labels = torch.randint(self.recipe.num_classes, labels.shape).to(self.device)
        generator_optimizer.zero_grad()
        fakes = self.generator(self._latents(len(labels)), labels)
        (-self.discriminator(fakes, labels).mean()).backward()
        generator_optimizer.step()
        return {"real": real.detach().mean(), "fake": fake.detach().mean()}

    def _latents(self, n: int) -> Tensor:
        return torch.randn(n, self.recipe.latent_dim).to(self.device)


class EncodedTraining(Training):
    """A VAE and a GAN that share their decoder (arXiv 1512.09300), on a classifier's frozen features.

    What the generator draws from the prior is to pass a discriminator on pixels and features and to be
    recognized by the classifier; what it draws from an encoder's latents of real images is to be those
    images. The latter keeps the generator from forgetting images, and is what makes their inversion
    possible.

    Args:
        features: a trained `FeatureNetwork`; it is frozen.
    """

    LEARNING_RATE, BETAS, EMA, FALL = 4e-4, (0.0, 0.95), 0.995, 0.3

    ENCODED = 0.75
    """Share of a batch that is encoded."""
    RECOGNITION = 0.1
    """Weight of the classifier's cross-entropy of samples, beside 1 for the heads' mean score."""
    PIXELS, DIVERGENCE = 80.0, 1.2e-3
    """Weights, of encoded images, of the mean squared error of pixels in [-1, 1] and of the latents'
    divergence from the prior in nats: together, a decoder whose variance is 0.023 a pixel."""
    LATER = 4.0
    """What multiplies the weights of encoded images in the second half of the steps."""

    def __init__(
        self, recipe: EncodedRecipe, features: FeatureNetwork, steps: int, seed: int, device: torch.device
    ) -> None:
        torch.manual_seed(seed)
        self.recipe = recipe
        self.features = features.folded().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        generator, self.encoder = recipe.generator(), recipe.encoder()
        self.discriminator = recipe.discriminator()
        super().__init__(generator, [self.encoder, self.discriminator], steps, device)

    def update(
        self, images: Float[Tensor, "n channels 32 32"], labels: Int[Tensor, " n"]
    ) -> dict[str, Tensor]:
        """Update the discriminator, then generator and encoder together."""
        n, encoded = len(images), int(self.ENCODED * len(images))
        generator_optimizer, encoder_optimizer, discriminator_optimizer = self.optimizers
        images = images.contiguous(memory_format=torch.channels_last)
        targets = images[:encoded]
        drawn = torch.randint(self.recipe.num_classes, labels.shape).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            mean, log_variance = self.encoder(targets)
            noise = torch.randn(n + encoded, self.recipe.latent_dim).to(self.device)
            latents = torch.cat([noise[:n], mean + (log_variance / 2).exp() * noise[n:]])
            made = self.generator(latents, torch.cat([drawn, labels[:encoded]]))
            fakes, rebuilt = made[:n], made[n:]
            with torch.no_grad():
                real_maps = self.features.maps(images)
            fake_maps = self.features.maps(fakes)

            real = self.discriminator(images, real_maps, labels)
            fake = self.discriminator(fakes.detach(), [x.detach() for x in fake_maps], drawn)
            loss: Tensor = sum(
                F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)
            )  # type: ignore[assignment]
        discriminator_optimizer.zero_grad()
        loss.backward()
        discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16):
            scores = self.discriminator(fakes, fake_maps, drawn)
            logits = self.features.logits(fake_maps[-1]).float()
        self.discriminator.requires_grad_(True)
        losses = {
            "adversary": -sum(score.mean() for score in scores) / len(scores),
            "recognition": F.cross_entropy(logits, drawn),
            "pixels": F.mse_loss(rebuilt, targets),
            "divergence": (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2,
        }
        loss = losses["adversary"] + self.RECOGNITION * losses["recognition"]
        encoding = self.PIXELS * losses["pixels"] + self.DIVERGENCE * losses["divergence"]
        loss += (1.0 if 2 * self.step < self.steps else self.LATER) * encoding
        generator_optimizer.zero_grad()
        encoder_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        encoder_optimizer.step()
        return {name: value.detach() for name, value in losses.items()}
