"""How good a class-conditional prior is: recognition of its samples, their spread, their distance.

The judge is a small classifier trained on the same training images; a figure is worth what its
accuracy is worth, so that accuracy stands beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Classifier", "accuracy", "frechet_distance", "pairwise_distance", "train_classifier"]

BATCH = 128

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ClassSpread:
    """Mean pairwise distance within each class, (num_classes,), of real images and of samples."""

    real: Tensor
    samples: Tensor

    @property
    def ratio(self) -> float:
        """Mean over classes of samples' spread / real images' spread; mode collapse is near 0."""
        return float((self.samples / self.real).mean())


class Classifier(nn.Module):
    """A three-stage convolutional classifier with batch normalization, for 32 px images."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128)
        stages: list[nn.Module] = []
        for below, above in pairwise(widths):
            stages += [
                nn.Conv2d(below, above, 3, padding=1, bias=False),
                nn.BatchNorm2d(above),
                nn.ReLU(),
                nn.Conv2d(above, above, 3, padding=1, bias=False),
                nn.BatchNorm2d(above),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.stages = nn.Sequential(*stages)
        self.output = nn.Linear(widths[-1], num_classes)

    def features(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n f"]:
        """Return the pooled features that the output layer reads."""
        features: Tensor = self.stages(images).amax((2, 3))
        return features

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n k"]:
        """Return the logits."""
        logits: Tensor = self.output(F.dropout(self.features(images), 0.3, self.training))
        return logits


def train_classifier(
    network: Callable[[int, int], Network],
    images: Float[Tensor, "n channels height width"],
    labels: Int[Tensor, " n"],
    *,
    epochs: int,
    seed: int,
) -> Network:
    """Train a classifier, the judge, on images in [0, 1]: AdamW, one cycle, flips and shifts by up to 2 px.

    In bfloat16, on the CPU. `network` makes it for a number of channels and of classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(images.shape[1], int(labels.max()) + 1)
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        steps = epochs * (len(images) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(_augment(images[rows]))
                loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def _augment(images: Tensor) -> Tensor:
    size = images.shape[-1]
    top, left = torch.randint(5, (2,)).tolist()
    shifted = F.pad(images, (2, 2, 2, 2))[..., top : top + size, left : left + size]
    flipped = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(flipped, shifted.flip(-1), shifted)


@torch.no_grad()
def accuracy(
    model: Classifier, images: Float[Tensor, "n channels height width"], labels: Int[Tensor, " n"]
) -> float:
    """Return the share of images that the classifier recognizes as their label."""
    right = sum(
        int((model(x).argmax(1) == y).count_nonzero())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(images)


@torch.no_grad()
def frechet_distance(
    model: Classifier,
    real: Float[Tensor, "n channels height width"],
    samples: Float[Tensor, "m channels height width"],
) -> float:
    """Return the Fréchet distance between Gaussian fits of the classifier's features.

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), as in FID (arXiv 1706.08500, eq. 6) but on this
    classifier's features, so that it compares with itself alone.
    """
    mean, covariance = _moments(model, real)
    other_mean, other_covariance = _moments(model, samples)
    eigenvalues = torch.linalg.eigvals(covariance @ other_covariance).real.clamp_min(0)
    trace = covariance.trace() + other_covariance.trace() - 2 * eigenvalues.sqrt().sum()
    return float((mean - other_mean).square().sum() + trace)


def _moments(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    features = torch.cat([model.features(part) for part in images.split(500)]).double()
    return features.mean(0), features.T.cov()


def pairwise_distance(images: Float[Tensor, "n channels height width"]) -> float:
    """Return the mean root-mean-square pixel distance over all pairs of images."""
    return float(torch.pdist(images.flatten(1)).mean() / images[0].numel() ** 0.5)
