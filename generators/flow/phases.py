"""The phases of training a flow: an autoencoder's codes, and the flow that ends in them."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.random import stream
from ggl.generators.flow.network import Decoder, Encoder
from ggl.generators.flow.prior import FlowSettings

__all__ = ["BATCH", "Coding", "Matching", "Phase", "whiten"]

BATCH = 128
LEARNING_RATE = 1e-3
WARM_UP = 200
"""Steps over which the learning rate rises; it falls to 0 over the second half."""
EMA_DECAY = 0.999
CODE_NOISE = 0.1
"""Standard deviation of what is added to codes of unit variance, so that near codes mean near images."""
NEAREST = 0.1
"""The least 1 - t by which an error is divided to be one of velocity."""


class Phase(ABC):
    """A network that is trained by Adam, and the running average of its weights.

    Every draw of step i comes from a stream that the seed, the stage and i name, so that a resumed
    training needs no random state.
    """

    name: str

    def __init__(self, network: nn.Module, steps: int, seed: int, device: torch.device) -> None:
        self.network = network.to(device)
        self.steps, self.seed, self.device = steps, seed, device
        self.step, self.seconds = 0, 0.0
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, betas=(0.9, 0.99))

    @abstractmethod
    def loss(self, draws: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of one batch."""

    def advance(self) -> Float[Tensor, ""]:
        """Do one step and return its loss."""
        rate = min(1.0, (self.step + 1) / WARM_UP, 2 * (1 - self.step / self.steps))
        self.optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        loss = self.loss(stream(self.seed, "flow", self.name, self.step))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        for mean, now in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        parts: list[Any] = [self.network, self.average, self.optimizer]
        return {"parts": [part.state_dict() for part in parts], "progress": [self.step, self.seconds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        parts: list[Any] = [self.network, self.average, self.optimizer]
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step, self.seconds = state["progress"]


class Autoencoder(nn.Module):
    """Images to codes of unit variance and back."""

    def __init__(self, settings: FlowSettings) -> None:
        super().__init__()
        self.encoder = Encoder(settings.channels, settings.code)
        self.norm = nn.BatchNorm1d(settings.code, affine=False)
        self.decoder = Decoder(settings.channels, settings.code)


class Coding(Phase):
    """The autoencoder, by the squared error of pixels."""

    name = "code"

    def __init__(
        self, settings: FlowSettings, images: Tensor, steps: int, seed: int, device: torch.device
    ) -> None:
        super().__init__(Autoencoder(settings), steps, seed, device)
        self.images = images

    def loss(self, draws: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error of a batch that passes through noisy codes."""
        images = self.images[torch.randint(len(self.images), (BATCH,), generator=draws)].to(self.device)
        network: Any = self.network
        codes = network.norm(network.encoder(images))
        noise = CODE_NOISE * torch.randn(codes.shape, generator=draws).to(self.device)
        return F.mse_loss(network.decoder(codes + noise), images)

    @torch.no_grad()
    def codes(self) -> Float[Tensor, "n d"]:
        """Return the codes of all images, by the averaged weights."""
        network: Any = self.average.eval()
        return torch.cat(
            [network.norm(network.encoder(part.to(self.device))).cpu() for part in self.images.split(500)]
        )


class Matching(Phase):
    """The flow, by conditional flow matching on straight paths (arXiv 2210.02747, eq. 23; σ_min = 0).

    Between noise x₀ and an end x₁ a point x = (1 - t)·x₀ + t·x₁ moves by x₁ - x₀. What a network
    predicts is x₁, so that the error of its velocity is that of the prediction over 1 - t.
    """

    name = "flow"

    def __init__(
        self,
        network: nn.Module,
        ends: Tensor,
        labels: Tensor,
        *,
        steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(network, steps, seed, device)
        self.ends, self.labels = ends, labels

    def loss(self, draws: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error of a batch's velocities."""
        rows = torch.randint(len(self.ends), (BATCH,), generator=draws)
        ends, labels = self.ends[rows].to(self.device), self.labels[rows].to(self.device)
        noise = torch.randn(ends.shape, generator=draws).to(self.device)
        time = torch.rand(BATCH, generator=draws).to(self.device)
        points = torch.lerp(noise, ends, time[:, None])
        errors = self.network(points, time, labels) - ends
        loss: Tensor = (errors / (1 - time).clamp_min(NEAREST)[:, None]).square().mean()
        return loss


def whiten(codes: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes of mean 0 and covariance 1, and the matrix and the mean that lead back (x @ A + m)."""
    mean = codes.double().mean(0)
    values, vectors = torch.linalg.eigh((codes.double() - mean).T.cov())
    roots = values.clamp_min(1e-6).sqrt()
    white = (codes.double() - mean) @ vectors / roots
    return white.float(), (roots[:, None] * vectors.T), mean
