"""Train a bundled prior.

    python -m ggl.generators.bundled.train fashion-dcgan32 --data fashion-mnist.npz --out DIR

Resumes from its own checkpoint in DIR. Writes `NAME.safetensors` (EMA weights, float16),
`quality.json` (what the model card quotes) and `samples.png`. Never sees the test split, save to
measure.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import save_image

from ggl.base.devices import find_device
from ggl.base.files import write_atomically
from ggl.base.weights import save_tensors
from ggl.generators.bundled.quality import (
    ClassSpread,
    accuracy,
    frechet_distance,
    pairwise_distance,
    train_classifier,
)
from ggl.generators.bundled.recipes import RECIPES, Recipe

SIZE = 32
BATCH = 64
LEARNING_RATE = 2e-4
EMA_DECAY = 0.999
CHECKPOINT_EVERY = 500
JUDGED_PER_CLASS = 1000


def load_images(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return a split's images (n, c, 32, 32) in [0, 1], zero-padded from 28 px, and its labels (n,)."""
    with np.load(path, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays[f"{split}_images"])
        labels = torch.from_numpy(arrays[f"{split}_labels"])
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    margin = (SIZE - images.shape[-1]) // 2
    return F.pad(images.float() / 255, (margin,) * 4), labels.long()


class Training:
    """Hinge loss, spectral norm, Adam (0, 0.9), a learning rate that falls to 0 in the second half."""

    def __init__(self, recipe: Recipe, steps: int, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.recipe, self.device = recipe, device
        self.steps, self.step, self.seconds = steps, 0, 0.0
        self.generator, self.discriminator = recipe.generator(), recipe.discriminator()
        for network in (self.generator, self.discriminator):
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
        self.ema = torch.optim.swa_utils.AveragedModel(self.generator, multi_avg_fn=average, use_buffers=True)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), LEARNING_RATE, betas=(0.0, 0.9))
            for network in (self.generator, self.discriminator)
        ]
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, 2 * (1 - step / self.steps)))
            for o in self.optimizers
        ]

    def advance(self, images: Tensor, labels: Tensor) -> None:
        """One discriminator step and one generator step on a batch of real images in [-1, 1]."""
        generator_optimizer, discriminator_optimizer = self.optimizers
        images, labels = images.to(self.device), labels.to(self.device)
        with torch.no_grad():
            fakes = self.generator(self._latents(len(labels)), labels)
        scores = self.discriminator(torch.cat([images, fakes]), labels.repeat(2))
        real, fake = scores.split(len(labels))
        discriminator_optimizer.zero_grad()
        (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
        discriminator_optimizer.step()

        labels = torch.randint(self.recipe.num_classes, (BATCH,)).to(self.device)
        generator_optimizer.zero_grad()
        (-self.discriminator(self.generator(self._latents(BATCH), labels), labels).mean()).backward()
        generator_optimizer.step()
        for schedule in self.schedules:
            schedule.step()
        self.ema.update_parameters(self.generator)
        self.step += 1

    def _latents(self, n: int) -> Tensor:
        return torch.randn(n, self.recipe.latent_dim).to(self.device)

    def state_dict(self) -> dict[str, object]:
        """Return everything that a resumed training needs."""
        parts: list[Any] = [self.generator, self.discriminator, self.ema, *self.optimizers, *self.schedules]
        return {
            "parts": [part.state_dict() for part in parts],
            "progress": [self.steps, self.step, self.seconds],
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict`."""
        parts: list[Any] = [self.generator, self.discriminator, self.ema, *self.optimizers, *self.schedules]
        for part, saved in zip(parts, state["parts"], strict=True):  # type: ignore[call-overload]
            part.load_state_dict(saved)
        self.steps, self.step, self.seconds = state["progress"]  # type: ignore[misc]
        torch.set_rng_state(state["random"])  # type: ignore[arg-type]


def train(images: Tensor, labels: Tensor, training: Training, out: Path) -> None:
    """Train to the last step, from the checkpoint in `out` if there is one."""
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        training.load_state_dict(torch.load(checkpoint, weights_only=True))
    started = time.monotonic() - training.seconds
    while training.step < training.steps:
        rows = torch.randint(len(images), (BATCH,))
        batch = images[rows] * 2 - 1
        if training.recipe.flips:
            batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, batch.flip(-1), batch)
        training.advance(batch, labels[rows])
        if training.step % CHECKPOINT_EVERY == 0 or training.step == training.steps:
            training.seconds = time.monotonic() - started
            partial = checkpoint.with_suffix(".part")
            torch.save(training.state_dict(), partial)
            partial.replace(checkpoint)
            print(f"step {training.step}/{training.steps}, {training.seconds:.0f} s", flush=True)
            grid = draw(training.ema.module, training.recipe, 12, seed=0)[0]
            save_image(grid, out / "samples.png", nrow=12)


@torch.no_grad()
def draw(generator: torch.nn.Module, recipe: Recipe, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `per_class` samples of every class, (n, c, 32, 32) in [0, 1], with their labels (n,)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(recipe.num_classes).repeat_interleave(per_class)
    latents = torch.randn(len(labels), recipe.latent_dim, generator=random)
    device = next(generator.parameters()).device
    generator.eval()
    parts = [
        generator(z.to(device), y.to(device)).cpu()
        for z, y in zip(latents.split(500), labels.split(500), strict=True)
    ]
    return (torch.cat(parts) + 1) / 2, labels


def measure(
    generator: torch.nn.Module, recipe: Recipe, data: Path, seed: int, epochs: int
) -> dict[str, object]:
    """Return the figures of the model card."""
    train_images, train_labels = load_images(data, "train")
    judge = train_classifier(train_images, train_labels, epochs=epochs, seed=seed)
    test_images, test_labels = load_images(data, "test")
    samples, labels = draw(generator, recipe, JUDGED_PER_CLASS, seed=seed + 1)
    classes = range(recipe.num_classes)
    by_class = [samples[labels == c] for c in classes]
    real_by_class = [test_images[test_labels == c] for c in classes]
    spread = ClassSpread(
        torch.tensor([pairwise_distance(images) for images in real_by_class]),
        torch.tensor([pairwise_distance(images) for images in by_class]),
    )
    return {
        "classifier_test_accuracy": accuracy(judge, test_images, test_labels),
        "samples_recognized": accuracy(judge, samples, labels),
        "samples_recognized_per_class": [
            accuracy(judge, images, torch.full((len(images),), c)) for c, images in enumerate(by_class)
        ],
        "spread_ratio": spread.ratio,
        "spread_real_per_class": spread.real.tolist(),
        "spread_samples_per_class": spread.samples.tolist(),
        "frechet_samples_to_test": frechet_distance(judge, test_images, samples),
        "frechet_train_to_test": frechet_distance(
            judge, test_images, train_images[:: len(train_images) // len(samples)]
        ),
        "samples_judged": len(samples),
    }


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prior", choices=list(RECIPES))
    parser.add_argument(
        "--data", type=Path, required=True, help=".npz with train_ and test_ images and labels"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the results")
    parser.add_argument("--steps", type=int, default=16_000, help="steps of batch 64")
    parser.add_argument("--judge-epochs", type=int, default=8, help="epochs of the judging classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU where there is one")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[options.prior]
    images, labels = load_images(options.data, "train")
    training = Training(recipe, options.steps, options.seed, find_device(options.device))
    train(images, labels, training, options.out)
    generator = training.ema.module.cpu().eval()
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in generator.state_dict().items()
    }
    save_tensors(options.out / f"{options.prior}.safetensors", half)
    generator.load_state_dict(
        {name: tensor.to(generator.state_dict()[name].dtype) for name, tensor in half.items()}
    )
    quality = {"steps": training.step, "seconds": round(training.seconds), "seed": options.seed}
    quality |= measure(generator, recipe, options.data, options.seed, options.judge_epochs)
    write_atomically(options.out / "quality.json", json.dumps(quality, indent=1).encode())
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
